//! The authenticated map: a compact sparse Merkle tree (Dahlberg, Pulls and Peeters, 2016, with
//! leaves at their shortest unique prefix), in memory. The root depends on the entries alone, not
//! on the order in which they came.

use base::{Hash, Reject, wire_struct};

/// Keys of the two kinds of node: their hashes never meet.
const LEAF: &[u8; 32] = b"talkoo 2026 ledger tree leaf v1.";
const BRANCH: &[u8; 32] = b"talkoo 2026 ledger tree node v1.";
/// Bits of a key: no path is longer.
const DEPTH: usize = 256;

/// A map from hashed keys to value hashes with one root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    top: Option<Node>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Leaf { key: Hash, value: Hash, hash: Hash },
    Branch(Box<Branch>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Branch {
    hash: Hash,
    children: [Option<Node>; 2],
}

/// The way from a leaf, or from where it would be, to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Hashes beside the way, from the top.
    pub beside: Vec<Hash>,
    /// The leaf at its end: key and value hash. Another key there proves that the asked one is absent.
    pub end: Option<(Hash, Hash)>,
}

wire_struct!(Path { beside, end });

impl Tree {
    /// The root; all zeros for an empty map.
    pub fn root(&self) -> Hash {
        hash(self.top.as_ref())
    }

    /// Sets or removes (`None`) many entries at once; `changes` are sorted by key, each key once.
    pub fn update(&mut self, changes: &[(Hash, Option<Hash>)]) {
        debug_assert!(changes.is_sorted_by(|a, b| a.0 < b.0), "sorted, each once");
        self.top = apply(self.top.take(), changes, 0);
    }

    /// Proves what the map says of `key`.
    pub fn path(&self, key: &Hash) -> Path {
        let (mut node, mut beside) = (self.top.as_ref(), Vec::new());
        while let Some(Node::Branch(branch)) = node {
            let side = bit(key, beside.len());
            beside.push(hash(branch.children[usize::from(side == 0)].as_ref()));
            node = branch.children[side].as_ref();
        }
        let end = match node {
            Some(Node::Leaf { key, value, .. }) => Some((*key, *value)),
            _ => None,
        };
        Path { beside, end }
    }
}

impl Path {
    /// The value hash of `key` (`None` = absent) in the map with this root; `Err` when this path is
    /// none of it.
    pub fn check(&self, root: &Hash, key: &Hash) -> Result<Option<Hash>, Reject> {
        if self.beside.len() > DEPTH {
            return Err(Reject::WrongRoot);
        }
        // The way up is that of `key`: a leaf that lies elsewhere leads to another root.
        let mut at = self.end.as_ref().map_or(Hash::default(), |(end, value)| leaf(end, value));
        for (depth, beside) in self.beside.iter().enumerate().rev() {
            at = if bit(key, depth) == 0 { branch(&at, beside) } else { branch(beside, &at) };
        }
        if at != *root {
            return Err(Reject::WrongRoot);
        }
        Ok(self.end.as_ref().filter(|(end, _)| end == key).map(|(_, value)| *value))
    }
}

fn bit(key: &Hash, depth: usize) -> usize {
    usize::from(key.0[depth / 8].rotate_left((depth % 8) as u32) >> 7)
}

fn leaf(key: &Hash, value: &Hash) -> Hash {
    pair(LEAF, key, value)
}

fn branch(left: &Hash, right: &Hash) -> Hash {
    pair(BRANCH, left, right)
}

fn pair(kind: &[u8; 32], a: &Hash, b: &Hash) -> Hash {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&a.0);
    bytes[32..].copy_from_slice(&b.0);
    Hash::keyed(kind, &bytes)
}

fn hash(node: Option<&Node>) -> Hash {
    match node {
        None => Hash::default(),
        Some(Node::Leaf { hash, .. }) => *hash,
        Some(Node::Branch(branch)) => branch.hash,
    }
}

/// The subtree at `depth` after `changes`, all of which lie below it.
fn apply(node: Option<Node>, changes: &[(Hash, Option<Hash>)], depth: usize) -> Option<Node> {
    match (node, changes) {
        (node, []) => node,
        (None, [(key, value)]) => new_leaf(key, value.as_ref()),
        (Some(Node::Branch(mut branch)), _) => {
            let [left, right] = std::mem::take(&mut branch.children);
            descend(Some(branch), left, right, changes, depth)
        }
        (Some(Node::Leaf { key, value, hash }), _) => match changes.binary_search_by_key(&key, |change| change.0) {
            // The leaf is changed itself: what it was does not matter.
            Ok(_) => apply(None, changes, depth),
            Err(_) => split(Some(Node::Leaf { key, value, hash }), changes, depth),
        },
        (None, _) => split(None, changes, depth),
    }
}

fn new_leaf(key: &Hash, value: Option<&Hash>) -> Option<Node> {
    value.map(|value| Node::Leaf { key: *key, value: *value, hash: leaf(key, value) })
}

/// Several entries where there was at most one leaf.
fn split(held: Option<Node>, changes: &[(Hash, Option<Hash>)], depth: usize) -> Option<Node> {
    let side = match &held {
        Some(Node::Leaf { key, .. }) => bit(key, depth),
        _ => 0,
    };
    let (left, right) = if side == 0 { (held, None) } else { (None, held) };
    descend(None, left, right, changes, depth)
}

fn descend(
    reuse: Option<Box<Branch>>,
    left: Option<Node>,
    right: Option<Node>,
    changes: &[(Hash, Option<Hash>)],
    depth: usize,
) -> Option<Node> {
    let middle = changes.partition_point(|(key, _)| bit(key, depth) == 0);
    let below = depth.saturating_add(1);
    let left = apply(left, &changes[..middle], below);
    let right = apply(right, &changes[middle..], below);
    match (left, right) {
        // A leaf stands at its shortest unique prefix.
        (only @ (None | Some(Node::Leaf { .. })), None) | (None, only @ Some(Node::Leaf { .. })) => only,
        (left, right) => {
            let hash = branch(&hash(left.as_ref()), &hash(right.as_ref()));
            let children = [left, right];
            Some(Node::Branch(match reuse {
                Some(mut reuse) => {
                    *reuse = Branch { hash, children };
                    reuse
                }
                None => Box::new(Branch { hash, children }),
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn key(i: u16) -> Hash {
        Hash::of("test", &i.to_le_bytes())
    }

    /// The definition, without any cleverness.
    fn plain(entries: &[(Hash, Hash)], depth: usize) -> Hash {
        match entries {
            [] => Hash::default(),
            [(key, value)] => leaf(key, value),
            _ => {
                let middle = entries.partition_point(|(key, _)| bit(key, depth) == 0);
                branch(&plain(&entries[..middle], depth + 1), &plain(&entries[middle..], depth + 1))
            }
        }
    }

    #[test]
    fn two_keys_that_differ_in_their_last_bit_are_told_apart() {
        let (one, mut two) = (key(1), key(1));
        two.0[31] ^= 1;
        let mut tree = Tree::default();
        let mut changes = [(one, Some(key(2))), (two, Some(key(3)))];
        changes.sort_unstable_by_key(|(key, _)| *key);
        tree.update(&changes);
        for (key, value) in changes {
            let path = tree.path(&key);
            assert_eq!((path.beside.len(), path.check(&tree.root(), &key)), (DEPTH, Ok(value)));
        }
    }

    proptest! {
        #[test]
        fn any_history_gives_the_root_of_its_entries(blocks: Vec<Vec<(u8, Option<u16>)>>) {
            let (mut tree, mut model) = (Tree::default(), BTreeMap::new());
            for block in blocks {
                let changes: BTreeMap<Hash, Option<Hash>> =
                    block.iter().map(|(k, v)| (key(u16::from(*k)), v.map(key))).collect();
                for (key, value) in &changes {
                    match value {
                        Some(value) => model.insert(*key, *value),
                        None => model.remove(key),
                    };
                }
                tree.update(&changes.into_iter().collect::<Vec<_>>());
                let entries: Vec<_> = model.iter().map(|(k, v)| (*k, *v)).collect();
                prop_assert_eq!(tree.root(), plain(&entries, 0));
            }
            for i in 0..256 {
                let path = tree.path(&key(i));
                prop_assert_eq!(path.check(&tree.root(), &key(i)), Ok(model.get(&key(i)).copied()));
            }
        }

        #[test]
        fn a_path_proves_nothing_else(n in 1u16..40, asked: u16, other: u16, flip in 0usize..256) {
            let mut tree = Tree::default();
            let changes: BTreeMap<Hash, Option<Hash>> = (0..n).map(|i| (key(i), Some(key(i + 1000)))).collect();
            tree.update(&changes.into_iter().collect::<Vec<_>>());
            let (asked, other) = (key(asked % n), key(other));
            let path = tree.path(&asked);
            let says = path.check(&tree.root(), &other);
            prop_assert!(says == Err(Reject::WrongRoot) || says == tree.path(&other).check(&tree.root(), &other));
            let mut forged = path.clone();
            if let Some((_, value)) = &mut forged.end {
                value.0[flip / 8] ^= 1 << (flip % 8);
            }
            prop_assert_eq!(forged.check(&tree.root(), &asked), Err(Reject::WrongRoot));
            let hidden = Path { end: None, ..path };
            prop_assert_eq!(hidden.check(&tree.root(), &asked), Err(Reject::WrongRoot));
        }
    }
}
