//! `talkoo release`: keys and signatures of releases, for whoever makes them.

use crate::{Common, render, update};
use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use release::{RELEASE_FILE, Release, write_release};
use serde_json::json;
use std::path::PathBuf;

#[derive(Subcommand)]
pub(crate) enum ReleaseCommand {
    /// Make a key that signs releases. A program trusts it that is built with TALKOO_RELEASE_KEY in its environment.
    Key {
        /// Where to put the secret.
        file: PathBuf,
    },
    /// Sign a program for machines like this one.
    Sign {
        /// The program.
        program: PathBuf,
        /// The file of the key.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The folder that gets the program and its release file.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

pub(crate) fn run(common: &Common, command: &ReleaseCommand) -> Result<()> {
    match command {
        ReleaseCommand::Key { file } => {
            ensure!(!file.exists(), "{} exists already", file.display());
            let secret = host::random_secret()?;
            host::write_private(file, base::to_hex(&secret).as_bytes())?;
            let key = base::Keypair::from_secret(secret).id().to_string();
            render::print(common, &json!({ "key": key, "file": file }), || {
                format!("{key}\nits secret is in {}; whoever has that file releases in its name", file.display())
            });
        }
        ReleaseCommand::Sign { program, key, out } => {
            let named = || format!("{} holds no key", key.display());
            let secret = std::fs::read_to_string(key).with_context(|| key.display().to_string())?;
            let secret: [u8; 32] = base::from_hex(secret.trim())?.try_into().ok().with_context(named)?;
            let version = update::says_version(&std::path::absolute(program)?)?;
            let signed = Release::sign(program, &version, &base::Keypair::from_secret(secret))?;
            signed.value.semver()?;
            std::fs::create_dir_all(out)?;
            let copy = out.join(signed.value.file_name());
            std::fs::copy(program, &copy).with_context(|| copy.display().to_string())?;
            let file = out.join(format!("{}.{RELEASE_FILE}", signed.value.file_name()));
            write_release(&file, &signed)?;
            let value = json!({ "program": copy, "release": file, "key": signed.by.to_string() });
            render::print(common, &value, || format!("{}\n{}", copy.display(), file.display()));
        }
    }
    Ok(())
}
