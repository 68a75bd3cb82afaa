//! Who names whom inside a crate, and how many meanings a name has. What is not right yet stands in lists that may only
//! get shorter.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};

/// Crate, folder, and the modules that name each other in a circle.
const CIRCLES: [(&str, &str, &[&str]); 0] = [];

/// Public types of one name in more than one place, and how many there are of them.
const SHARED: [(&str, usize); 0] = [];

/// A module by the names on the way to it; the crate's root has none.
type Module = Vec<String>;

/// One crate's modules, tests apart.
struct Crate {
    name: String,
    files: BTreeMap<Module, syn::File>,
}

fn crates() -> Vec<Crate> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let names = std::fs::read_dir(&root).expect("a folder").flatten();
    let mut names: Vec<String> = names.map(|entry| entry.file_name().into_string().expect("a name")).collect();
    names.sort();
    names.into_iter().map(|name| Crate::read(&root, name)).collect()
}

impl Crate {
    fn read(root: &Path, name: String) -> Self {
        let (src, mut files) = (root.join(&name).join("src"), BTreeMap::new());
        let start = ["lib.rs", "main.rs"].map(|start| src.join(start)).into_iter().find(|start| start.is_file());
        let mut left = vec![(Module::new(), start.expect("a root"))];
        while let Some((module, file)) = left.pop() {
            let text = std::fs::read_to_string(&file).expect("a source");
            let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            for item in &parsed.items {
                if let syn::Item::Mod(child) = item
                    && child.content.is_none()
                    && !is_test(&child.attrs)
                {
                    let below = [module.clone(), vec![child.ident.to_string()]].concat();
                    let file = file_of(&src, &below, &child.attrs, &file);
                    left.push((below, file));
                }
            }
            files.insert(module, parsed);
        }
        Self { name, files }
    }

    /// The module that a path leads to, re-exports followed.
    fn module_of(&self, path: &[String], again: usize) -> Module {
        let known = (0..=path.len()).rev().find(|n| self.files.contains_key(&path[..*n])).unwrap_or_default();
        let (module, rest) = path.split_at(known);
        let Some(name) = rest.first().filter(|_| again > 0) else { return module.to_vec() };
        let named = Names::of(module, &self.files[module], &self.files).exports;
        match named.get(name).filter(|leads| leads.as_slice() != path) {
            Some(leads) => self.module_of(&[leads.as_slice(), &rest[1..]].concat(), again - 1),
            None => module.to_vec(),
        }
    }

    /// By folder, which module names which, with an example.
    fn edges(&self) -> BTreeMap<Module, BTreeMap<(String, String), String>> {
        let mut edges = BTreeMap::<_, BTreeMap<_, _>>::new();
        for (module, file) in &self.files {
            for path in Names::of(module, file, &self.files).paths {
                let other = self.module_of(&path, 8);
                let shared = module.iter().zip(&other).take_while(|(a, b)| a == b).count();
                // A folder and what is in it are one.
                if let (Some(from), Some(to)) = (module.get(shared), other.get(shared)) {
                    let example = format!("{} names {}", module.join("::"), path.join("::"));
                    edges.entry(module[..shared].to_vec()).or_default().insert((from.clone(), to.clone()), example);
                }
            }
        }
        edges
    }
}

fn file_of(src: &Path, module: &[String], attrs: &[syn::Attribute], parent: &Path) -> PathBuf {
    for attr in attrs {
        if let syn::Meta::NameValue(meta) = &attr.meta
            && meta.path.is_ident("path")
            && let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) = &meta.value
        {
            return parent.parent().expect("a folder").join(path.value());
        }
    }
    let at = module.iter().fold(src.to_owned(), |at, name| at.join(name));
    let file = at.with_extension("rs");
    if file.is_file() { file } else { at.join("mod.rs") }
}

fn is_test(attrs: &[syn::Attribute]) -> bool {
    attrs.iter().any(|attr| {
        let syn::Meta::List(list) = &attr.meta else { return false };
        list.path.is_ident("cfg") && list.tokens.to_string() == "test"
    })
}

/// What a file names and defines.
struct Names<'a> {
    module: &'a [String],
    files: &'a BTreeMap<Module, syn::File>,
    paths: BTreeSet<Module>,
    /// What is known here by a name of another module.
    exports: BTreeMap<String, Module>,
    types: Vec<String>,
}

impl<'a> Names<'a> {
    fn of(module: &'a [String], file: &syn::File, files: &'a BTreeMap<Module, syn::File>) -> Self {
        let (paths, exports, types) = Default::default();
        let mut names = Self { module, files, paths, exports, types };
        names.visit_file(file);
        names
    }

    /// A path from the crate's root, if it is one of this crate.
    fn whole(&self, path: &[String]) -> Option<Module> {
        let (first, rest) = path.split_first()?;
        let up = path.iter().take_while(|name| *name == "super").count();
        let child = || [self.module, std::slice::from_ref(first)].concat();
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([self.module, rest].concat()),
            "super" => Some([&self.module[..self.module.len().saturating_sub(up)], &path[up..]].concat()),
            _ if self.files.contains_key(&child()) => Some([self.module, path].concat()),
            _ => None,
        }
    }

    fn take(&mut self, path: &[String]) {
        self.paths.extend(self.whole(path));
    }

    fn take_use(&mut self, before: &[String], tree: &syn::UseTree, exported: bool) {
        let (last, known) = match tree {
            syn::UseTree::Path(path) => {
                let before = [before, &[path.ident.to_string()]].concat();
                return self.take_use(&before, &path.tree, exported);
            }
            syn::UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.take_use(before, tree, exported));
            }
            syn::UseTree::Name(name) => (name.ident.to_string(), name.ident.to_string()),
            syn::UseTree::Rename(name) => (name.ident.to_string(), name.rename.to_string()),
            syn::UseTree::Glob(_) => return self.take(before),
        };
        let path = if last == "self" { before.to_vec() } else { [before, &[last]].concat() };
        self.take(&path);
        if let (true, Some(leads)) = (exported, self.whole(&path)) {
            self.exports.insert(known, leads);
        }
    }

    fn take_type(&mut self, visibility: &syn::Visibility, name: &syn::Ident) {
        if let syn::Visibility::Public(_) = visibility {
            self.types.push(name.to_string());
        }
    }
}

impl Visit<'_> for Names<'_> {
    fn visit_item_mod(&mut self, item: &syn::ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }
    fn visit_item_fn(&mut self, item: &syn::ItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }
    fn visit_impl_item_fn(&mut self, item: &syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }
    fn visit_item_use(&mut self, item: &syn::ItemUse) {
        if !is_test(&item.attrs) {
            self.take_use(&[], &item.tree, !matches!(item.vis, syn::Visibility::Inherited));
        }
    }
    fn visit_path(&mut self, path: &syn::Path) {
        let names: Module = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if names.len() > 1 {
            self.take(&names);
        }
        visit::visit_path(self, path);
    }
    fn visit_macro(&mut self, item: &syn::Macro) {
        // What a macro is given need not be Rust: only whole paths count.
        let text = item.tokens.to_string();
        let words: Vec<&str> = text.split_whitespace().collect();
        for (at, _) in words.iter().enumerate().filter(|(_, word)| **word == "crate" || **word == "super") {
            let names = words[at..].iter().step_by(2).zip(words[at + 1..].iter().step_by(2).map(|w| *w == "::"));
            let mut path: Module =
                names.take_while(|(_, goes_on)| *goes_on).map(|(name, _)| (*name).to_owned()).collect();
            path.extend(words.get(at + 2 * path.len()).map(|last| (*last).to_owned()));
            self.take(&path);
        }
        visit::visit_macro(self, item);
    }
    fn visit_item_struct(&mut self, item: &syn::ItemStruct) {
        self.take_type(&item.vis, &item.ident);
        visit::visit_item_struct(self, item);
    }
    fn visit_item_enum(&mut self, item: &syn::ItemEnum) {
        self.take_type(&item.vis, &item.ident);
        visit::visit_item_enum(self, item);
    }
    fn visit_item_trait(&mut self, item: &syn::ItemTrait) {
        self.take_type(&item.vis, &item.ident);
        visit::visit_item_trait(self, item);
    }
    fn visit_item_type(&mut self, item: &syn::ItemType) {
        self.take_type(&item.vis, &item.ident);
        visit::visit_item_type(self, item);
    }
}

/// Modules that lead back to themselves, those of one circle together.
fn circles(edges: &BTreeMap<(String, String), String>) -> BTreeSet<BTreeSet<&str>> {
    let leads = |from: &str| {
        let (mut found, mut left) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(at) = left.pop() {
            for (_, to) in edges.keys().filter(|(from, _)| *from == at) {
                if found.insert(to.as_str()) {
                    left.push(to.clone());
                }
            }
        }
        found
    };
    let all: BTreeMap<&str, BTreeSet<&str>> = edges.keys().map(|(from, _)| (from.as_str(), leads(from))).collect();
    let of_one = |from: &str| -> BTreeSet<&str> {
        let back = |to: &&str| all.get(to).is_some_and(|leads| leads.contains(from));
        all[from].iter().copied().filter(back).collect()
    };
    all.keys().map(|from| of_one(from)).filter(|circle| !circle.is_empty()).collect()
}

#[test]
fn modules_name_each_other_in_no_circle() {
    let (mut found, mut why) = (Vec::new(), String::new());
    for one in crates() {
        for (folder, edges) in one.edges() {
            for circle in circles(&edges) {
                found.push((
                    one.name.clone(),
                    folder.join("/"),
                    circle.iter().map(|name| (*name).to_owned()).collect(),
                ));
                let among =
                    |(from, to): &(String, String)| circle.contains(from.as_str()) && circle.contains(to.as_str());
                let among = edges.iter().filter(|(edge, _)| among(edge)).map(|(_, example)| format!("    {example}\n"));
                why += &format!("{} {}: {circle:?}\n{}", one.name, folder.join("/"), among.collect::<String>());
            }
        }
    }
    let known: Vec<(String, String, Vec<String>)> = CIRCLES
        .iter()
        .map(|(name, folder, circle)| {
            let circle = circle.iter().map(|name| (*name).to_owned()).collect();
            ((*name).to_owned(), (*folder).to_owned(), circle)
        })
        .collect();
    assert!(found == known, "circles are (what is cut leaves the list):\n{why}");
}

#[test]
fn a_public_type_has_a_name_of_its_own() {
    let mut count = BTreeMap::<String, usize>::new();
    for one in crates().iter().filter(|one| !["bench", "sim"].contains(&one.name.as_str())) {
        let types = one.files.iter().flat_map(|(module, file)| Names::of(module, file, &one.files).types);
        types.for_each(|name| *count.entry(name).or_default() += 1);
    }
    count.retain(|_, places| *places > 1);
    let known = SHARED.iter().map(|(name, places)| ((*name).to_owned(), *places)).collect();
    assert!(count == known, "names of several public types are (what is renamed leaves the list): {count:#?}");
}
