//! `talkoo key`: keys of the API on this machine.

use crate::{Common, render};
use anyhow::{Result, bail};
use clap::Subcommand;
use gateway::Key;
use serde_json::json;

#[derive(Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key; it is shown this once.
    Create {
        /// What it is for.
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        name: String,
        /// A key of the node's owner: the page and its figures, pause and resume, from wherever the API can be reached.
        #[arg(long)]
        owner: bool,
        /// A model that it may ask; may be given several times (default: all).
        #[arg(long, value_name = "MODEL")]
        model: Vec<String>,
        /// Requests a minute.
        #[arg(long, value_name = "N")]
        per_minute: Option<u32>,
        /// Tokens that it may have read and written, in all.
        #[arg(long, value_name = "N")]
        tokens: Option<u64>,
        /// Days until it expires.
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(1..=36_500))]
        days: Option<u64>,
    },
    /// The keys.
    Ls,
    /// Refuse a key from now on.
    Revoke {
        /// Its name.
        name: String,
    },
}

pub(crate) fn run(common: &Common, command: KeyCommand) -> Result<()> {
    let dir = common.dir();
    let mut keys = serving::api_keys(&dir)?;
    match command {
        KeyCommand::Create { name, owner, model, per_minute, tokens, days } => {
            if keys.iter().any(|key| key.name == name) {
                bail!("there is a key called {name} already; `talkoo key revoke {name}` makes room");
            }
            let secret = serving::new_api_key()?;
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
            let expires = days.map(|days| now + days * 86_400);
            let (hash, hint) = (Key::hash_of(&secret), secret[..10].to_owned());
            keys.push(Key { name, hash, hint, owner, models: model, per_minute, tokens, expires });
            serving::keep_api_keys(&dir, &keys)?;
            render::print(common, &json!({ "key": secret }), || {
                format!("{secret}\nit is stored as a hash only: keep it, it is not shown again")
            });
        }
        KeyCommand::Ls => {
            render::print(common, &serde_json::to_value(&keys)?, || {
                let whose = |key: &Key| if key.owner { "  (the owner's)" } else { "" };
                let line = |key: &Key| format!("{}…  {}{}", key.hint, key.name, whose(key));
                if keys.is_empty() { "no keys".into() } else { keys.iter().map(line).collect::<Vec<_>>().join("\n") }
            });
        }
        KeyCommand::Revoke { name } => {
            let before = keys.len();
            keys.retain(|key| key.name != name);
            if keys.len() == before {
                bail!("there is no key called {name}; `talkoo key ls` lists them");
            }
            serving::keep_api_keys(&dir, &keys)?;
            render::print(common, &json!({ "revoked": name }), || format!("{name} is refused from now on"));
        }
    }
    Ok(())
}
