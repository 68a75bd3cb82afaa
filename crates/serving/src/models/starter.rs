//! The model that comes with the program: so that there is an answer before anything is fetched or trained.
//!
//! `corpus/starter/README.md` says how it was trained, and how anyone does it again.

use super::{Model, Models, Origin};
use anyhow::Result;
use base::{ChunkTree, Hash};
use std::io::Write;

const BYTES: &[u8] = include_bytes!("../../../../corpus/starter/starter.gguf");
/// What the model that comes with the program is called.
pub const STARTER: &str = "starter";

/// What the model that comes with the program is good for, and how to get a better one.
pub const STARTER_SAYS: &str = "starter came with talkoo, which trained it on Shakespeare: it goes on with a text in his manner, \
     and knows nothing else. A useful model: talkoo model pull Qwen/Qwen3-0.6B-GGUF:Q8_0 (0.6 GB)";

impl Models {
    /// The model that comes with the program, put among those of this machine where it is not there.
    pub fn starter(&self) -> Result<Model> {
        let root = ChunkTree::of(BYTES).root();
        let known = self.all()?.into_iter().find(|model| model.hash == root);
        if let Some(known) = known.filter(|known| self.verify(known, &|_| ()).is_ok()) {
            return Ok(known);
        }
        let _ = std::fs::remove_dir_all(self.folder(&root));
        let key = Hash::of("talkoo 2026 starter v1", &root.0).to_string();
        let mut arriving = self.arriving(&key)?;
        arriving.file.set_len(0)?;
        arriving.file.write_all(BYTES)?;
        let put = self.settle(arriving, STARTER, Origin::default(), |_| Ok(()), &|_| ());
        self.forget_arriving(&key);
        put
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_whole_whatever_became_of_it() {
        let stage = tempfile::tempdir().expect("a folder");
        let models = Models::of(stage.path());
        let first = models.starter().expect("put");
        assert!(first.bytes <= 3_000_000, "{} bytes", first.bytes);
        assert_eq!(models.starter().expect("known"), first);
        std::fs::write(models.path(&first), b"damaged").expect("written");
        let again = models.starter().expect("put again");
        assert_eq!((again.hash, again.bytes), (first.hash, first.bytes));
        assert_eq!(std::fs::read(models.path(&again)).expect("read"), BYTES);
        assert_eq!(models.all().expect("listed").len(), 1);
    }
}
