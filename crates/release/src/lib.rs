//! Signed releases of the program: how one is written, and how it is found in a folder or among peers.
//!
//! *Goals*: what is installed is, to the byte, what a trusted key signed, wherever it came from. *Non-goals*: installing it, and
//! going back from it; `talkoo update` does that.

mod peers;

pub use peers::{Given, find_among_peers, own_release, topic};

use anyhow::{Context, Result, bail, ensure};
use base::{ChunkTree, Hash, Keypair, NodeId, Signature, Signed, Wire, wire_struct};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

const DOMAIN: &str = "talkoo 2026 release v1";
/// The file beside a program that says who released it.
pub const RELEASE_FILE: &str = "release";
/// The key whose releases this program trusts.
pub const PINNED: Option<&str> = option_env!("TALKOO_RELEASE_KEY");
/// Beside the program: what has come of another from peers.
pub const ARRIVING: &str = "arriving";
/// A program has at most so many bytes.
const BYTES_MAX: u64 = 1 << 30;
/// A release file has at most so many bytes.
const FILE_MAX: u64 = 4 << 10;

/// A program as it was released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// As [semver](https://semver.org).
    pub version: String,
    /// Where it runs: [`Release::target`].
    pub target: String,
    /// Its length.
    pub bytes: u64,
    /// Root of the [`ChunkTree`] of its bytes.
    pub root: Hash,
    /// Unix milliseconds.
    pub made_ms: u64,
}
wire_struct!(Release { version, target, bytes, root, made_ms });

/// A release file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReleaseFile {
    version: String,
    target: String,
    bytes: u64,
    root: Hash,
    made_ms: u64,
    by: String,
    signature: String,
}

impl Release {
    /// The machine that this program was built for: `x86_64-linux`.
    pub fn target() -> String {
        format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS)
    }

    /// Signs a program for machines like this one.
    pub fn sign(program: &Path, version: &str, key: &Keypair) -> Result<Signed<Self>> {
        let mut file = File::open(program).with_context(|| program.display().to_string())?;
        let bytes = file.metadata()?.len();
        ensure!((1..=BYTES_MAX).contains(&bytes), "{} has {bytes} bytes", program.display());
        let root = ChunkTree::read(&mut file)?.root();
        let (version, target, made_ms) = (version.to_owned(), Self::target(), host::now_ms());
        Ok(Signed::new(DOMAIN, key, Self { version, target, bytes, root, made_ms }))
    }

    /// Copies what was released, and nothing else, to a place where nothing is yet.
    pub fn copy(&self, program: &Path, to: &Path) -> Result<()> {
        let named = || program.display().to_string();
        let source = File::open(program).with_context(named)?;
        let known = source.metadata()?;
        ensure!(
            known.is_file() && known.len() == self.bytes,
            "{} is not what was released: {} bytes",
            named(),
            known.len()
        );
        let copy = host::private_file().read(true).write(true).create_new(true).open(to);
        let mut copy = copy.with_context(|| format!("{}: may you write there?", to.display()))?;
        std::io::copy(&mut source.take(self.bytes), &mut copy)?;
        copy.sync_all()?;
        // What was copied is what is checked.
        copy.rewind()?;
        ensure!(
            ChunkTree::read(&mut copy)?.root() == self.root,
            "{} is not what was released: its bytes differ",
            named()
        );
        host::make_runnable(to)?;
        Ok(())
    }

    /// Its version.
    pub fn semver(&self) -> Result<semver::Version> {
        self.version.parse().with_context(|| format!("“{}” is no version", self.version))
    }

    /// By version; of one version the last that was made.
    pub fn order(&self) -> (Option<semver::Version>, u64) {
        (self.semver().ok(), self.made_ms)
    }

    /// `talkoo-1.2.3-x86_64-linux`: the program beside its release file.
    pub fn file_name(&self) -> String {
        format!("talkoo-{}-{}", self.version, self.target)
    }
}

/// A file beside a program: its name, and this ending.
pub fn beside(exe: &Path, ending: &str) -> PathBuf {
    let mut name = exe.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{ending}"));
    exe.with_file_name(name)
}

/// Writes the release file beside its program.
pub fn write_release(path: &Path, signed: &Signed<Release>) -> Result<()> {
    let Release { version, target, bytes, root, made_ms } = signed.value.clone();
    let (by, signature) = (signed.by.to_string(), base::to_hex(&signed.signature.0));
    let file = ReleaseFile { version, target, bytes, root, made_ms, by, signature };
    host::write_whole(path, &serde_json::to_vec_pretty(&file)?, true)
}

/// Whether a release is of a possible size, has a version, and is signed by whom it names.
pub fn check_release(signed: &Signed<Release>) -> Result<()> {
    let Release { bytes, .. } = signed.value;
    ensure!(signed.to_bytes().len() as u64 <= FILE_MAX && signed.verify(DOMAIN), "the signature is wrong");
    ensure!((1..=BYTES_MAX).contains(&bytes), "a release has no {bytes} bytes");
    signed.value.semver().map(|_| ())
}

/// Reads a release file, whoever signed it.
pub fn read_signed(path: &Path) -> Result<Signed<Release>> {
    let named = || path.display().to_string();
    ensure!(std::fs::metadata(path).with_context(named)?.is_file(), "{} is no file", named());
    let mut bytes = Vec::new();
    File::open(path).with_context(named)?.take(FILE_MAX).read_to_end(&mut bytes)?;
    let file: ReleaseFile = serde_json::from_slice(&bytes).with_context(named)?;
    let signature: [u8; 64] = base::from_hex(&file.signature)?.try_into().ok().context("a signature has 64 bytes")?;
    let ReleaseFile { version, target, bytes, root, made_ms, by, .. } = file;
    let value = Release { version, target, bytes, root, made_ms };
    let signed = Signed { by: by.parse().with_context(named)?, value, signature: Signature(signature) };
    // What is written again is what was signed.
    check_release(&signed).with_context(named)?;
    Ok(signed)
}

/// The same; an error where its signature is none of `trusted`.
fn read_release(path: &Path, trusted: &[NodeId]) -> Result<Signed<Release>> {
    let signed = read_signed(path)?;
    ensure!(
        trusted.contains(&signed.by),
        "{} is signed by {}, whom this program does not trust; `--trust KEY` names another key",
        path.display(),
        signed.by
    );
    Ok(signed)
}

/// The newest release for this machine in a folder, or that of a release file, with its program.
pub fn find_release(place: &Path, trusted: &[NodeId]) -> Result<(Signed<Release>, PathBuf)> {
    let named = || place.display().to_string();
    let mut files = vec![place.to_owned()];
    if place.is_dir() {
        let entries = std::fs::read_dir(place).with_context(named)?;
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        files = paths.filter(|path| path.extension().is_some_and(|ending| ending == RELEASE_FILE)).collect();
        files.sort();
    }
    let (mut newest, mut wrong) = (None::<(Signed<Release>, PathBuf)>, None);
    for file in files {
        match read_release(&file, trusted) {
            Ok(signed) if signed.value.target != Release::target() => {}
            Ok(signed) if newest.as_ref().is_none_or(|(found, _)| found.value.order() < signed.value.order()) => {
                let program = file.with_file_name(signed.value.file_name());
                newest = Some((signed, program));
            }
            Ok(_) => {}
            Err(error) => wrong = Some(error),
        }
    }
    match (newest, wrong) {
        (Some(found), _) => Ok(found),
        (None, Some(error)) => Err(error),
        (None, None) => bail!("{} holds no release for {}", named(), Release::target()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_trusted_key_released_is_found_and_only_whole() {
        let stage = tempfile::tempdir().expect("a folder");
        let (key, other) = (Keypair::from_secret([1; 32]), Keypair::from_secret([2; 32]));
        let program = stage.path().join("program");
        let put = |bytes: &[u8], version: &str, key: &Keypair| {
            std::fs::write(&program, bytes).expect("written");
            let signed = Release::sign(&program, version, key).expect("signed");
            let named = stage.path().join(signed.value.file_name());
            std::fs::copy(&program, &named).expect("copied");
            write_release(&named.with_file_name(format!("{}.{RELEASE_FILE}", signed.value.file_name())), &signed)
                .expect("written");
            (signed, named)
        };
        let found = |trusted: &[NodeId]| find_release(stage.path(), trusted);
        assert!(found(&[key.id()]).is_err(), "an empty folder");
        let (first, program_1) = put(b"one", "1.0.0", &key);
        assert_eq!(found(&[key.id()]).expect("found"), (first.clone(), program_1.clone()));
        assert!(found(&[other.id()]).expect_err("another key").to_string().contains("does not trust"));
        put(b"forged", "9.0.0", &other);
        assert_eq!(found(&[key.id()]).expect("found").0, first, "whatever others put beside it");
        let to = stage.path().join("copy");
        first.value.copy(&program_1, &to).expect("whole");
        assert_eq!(std::fs::read(&to).expect("read"), b"one");
        assert!(first.value.copy(&program_1, &to).is_err(), "what lies there already is not written to");
        for (bytes, why) in [(&b"two"[..], "differ"), (b"longer", "6 bytes")] {
            std::fs::write(&program_1, bytes).expect("written");
            std::fs::remove_file(&to).expect("removed");
            let error = first.value.copy(&program_1, &to).expect_err("changed").to_string();
            assert!(error.contains(why), "{error}");
            let _ = File::create(&to);
        }
        // Later versions go before later releases.
        let backport = put(b"old branch", "0.9.0", &key).0;
        assert!(backport.value.made_ms >= first.value.made_ms);
        assert_eq!(found(&[key.id()]).expect("found").0, first);
        // A changed field is not what was signed.
        let file = stage.path().join(format!("{}.{RELEASE_FILE}", first.value.file_name()));
        let text = std::fs::read_to_string(&file).expect("read");
        std::fs::write(&file, text.replace("1.0.0", "2.0.0")).expect("written");
        assert!(read_release(&file, &[key.id()]).expect_err("changed").root_cause().to_string().contains("signature"));
    }
}
