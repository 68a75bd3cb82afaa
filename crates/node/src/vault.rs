//! The owner's wallet: a key of its own beside the node's, encrypted at rest, to hold what is not to lie on a
//! machine that works unattended. It is backed up as 24 words (BIP-39).

use anyhow::{Context, Result, bail, ensure};
use argon2::{Algorithm, Argon2, Params, Version};
use base::{Keypair, NodeId};
use bip39::{Language, Mnemonic};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use host::write_whole;
use serde::{Deserialize, Serialize};
use std::path::Path;
use zeroize::Zeroizing;

const FILE: &str = "wallet.json";
/// Argon2id as RFC 9106 recommends where memory is scarce: 64 MiB, three passes, four lanes.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 4;

/// What the file holds. The key in it is open: it names the account.
#[derive(Debug, Serialize, Deserialize)]
struct Sealed {
    account: String,
    kdf: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    cipher: String,
    salt: String,
    nonce: String,
    secret: String,
}

/// The account of the folder's wallet, if it has one.
pub fn wallet_account(dir: &Path) -> Result<Option<NodeId>> {
    read(dir)?.map(|sealed| Ok(sealed.account.parse()?)).transpose()
}

/// Makes a wallet; gives its account and the words that restore it.
pub fn new_wallet(dir: &Path, passphrase: &str) -> Result<(NodeId, String)> {
    let secret = Zeroizing::new(host::random_secret()?);
    let account = seal(dir, &secret, passphrase)?;
    Ok((account, words_of(&secret)?))
}

/// Makes the wallet that 24 words name.
pub fn restore_wallet(dir: &Path, words: &str, passphrase: &str) -> Result<NodeId> {
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let mnemonic = Mnemonic::from_phrase(&words, Language::English);
    let mnemonic = mnemonic.map_err(|error| anyhow::anyhow!("these are not the words of a wallet: {error}"))?;
    let secret: [u8; 32] = mnemonic.entropy().try_into().context("a wallet has 24 words")?;
    seal(dir, &Zeroizing::new(secret), passphrase)
}

/// The wallet's key.
pub fn open_wallet(dir: &Path, passphrase: &str) -> Result<Keypair> {
    let sealed = read(dir)?.context("this folder has no wallet; `talkoo wallet new` makes one")?;
    ensure!(sealed.kdf == "argon2id" && sealed.cipher == "xchacha20poly1305", "the wallet is of a newer version");
    ensure!(sealed.memory_kib <= 1 << 20 && sealed.passes <= 64 && sealed.lanes <= 64, "{FILE} is damaged");
    let cipher = cipher(passphrase, &base::from_hex(&sealed.salt)?, sealed.memory_kib, sealed.passes, sealed.lanes)?;
    let nonce: [u8; 24] = base::from_hex(&sealed.nonce)?.try_into().ok().context("the wallet is damaged")?;
    let payload = Payload { msg: &base::from_hex(&sealed.secret)?, aad: sealed.account.as_bytes() };
    let secret = cipher.decrypt(&XNonce::from(nonce), payload);
    let Ok(secret) = secret.map(Zeroizing::new) else { bail!("the passphrase is wrong, or {FILE} is damaged") };
    let key = Keypair::from_secret(secret.as_slice().try_into().context("the wallet is damaged")?);
    ensure!(key.id().to_string() == sealed.account, "{FILE} is damaged: it names another account");
    Ok(key)
}

/// The words that restore the wallet.
pub fn wallet_words(dir: &Path, passphrase: &str) -> Result<String> {
    words_of(&Zeroizing::new(open_wallet(dir, passphrase)?.secret()))
}

fn words_of(secret: &[u8; 32]) -> Result<String> {
    let mnemonic = Mnemonic::from_entropy(secret, Language::English);
    Ok(mnemonic.map_err(|error| anyhow::anyhow!("{error}"))?.phrase().to_owned())
}

fn read(dir: &Path) -> Result<Option<Sealed>> {
    let path = dir.join(FILE);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).with_context(|| format!("{} is damaged", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

fn seal(dir: &Path, secret: &[u8; 32], passphrase: &str) -> Result<NodeId> {
    ensure!(read(dir)?.is_none(), "{} has a wallet already; name another folder with --data", dir.display());
    ensure!(passphrase.chars().count() >= 8, "a passphrase has at least eight characters");
    host::private_folder(dir)?;
    let account = Keypair::from_secret(*secret).id();
    let (salt, nonce) = (host::random_secret()?, host::random_secret()?);
    let nonce: [u8; 24] = nonce[..24].try_into().context("24 bytes")?;
    let cipher = cipher(passphrase, &salt, MEMORY_KIB, PASSES, LANES)?;
    let name = account.to_string();
    let payload = Payload { msg: secret.as_slice(), aad: name.as_bytes() };
    let Ok(sealed) = cipher.encrypt(&XNonce::from(nonce), payload) else { bail!("the wallet cannot be encrypted") };
    let file = Sealed {
        account: name,
        kdf: "argon2id".into(),
        memory_kib: MEMORY_KIB,
        passes: PASSES,
        lanes: LANES,
        cipher: "xchacha20poly1305".into(),
        salt: base::to_hex(&salt),
        nonce: base::to_hex(&nonce),
        secret: base::to_hex(&sealed),
    };
    write_whole(&dir.join(FILE), &serde_json::to_vec_pretty(&file)?, true)?;
    Ok(account)
}

fn cipher(passphrase: &str, salt: &[u8], memory: u32, passes: u32, lanes: u32) -> Result<XChaCha20Poly1305> {
    let params = Params::new(memory, passes, lanes, Some(32));
    let params = params.map_err(|error| anyhow::anyhow!("the wallet is damaged: {error}"))?;
    let mut key = Zeroizing::new([0; 32]);
    let derived = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let derived = derived.hash_password_into(passphrase.as_bytes(), salt, key.as_mut_slice());
    derived.map_err(|error| anyhow::anyhow!("the passphrase cannot be used: {error}"))?;
    Ok(XChaCha20Poly1305::new(&Key::from(*key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wallet_opens_with_its_passphrase_and_comes_back_from_its_words() {
        let (one, two) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        assert!(new_wallet(one.path(), "short").is_err());
        let (account, words) = new_wallet(one.path(), "correct horse").expect("made");
        assert_eq!(words.split(' ').count(), 24);
        assert!(new_wallet(one.path(), "correct horse").is_err(), "a wallet is not overwritten");
        assert_eq!(open_wallet(one.path(), "correct horse").expect("opens").id(), account);
        assert!(open_wallet(one.path(), "wrong horse!").is_err_and(|error| error.to_string().contains("passphrase")));
        assert_eq!(wallet_words(one.path(), "correct horse").expect("opens"), words);
        assert_eq!(restore_wallet(two.path(), &words.to_uppercase(), "another one").expect("restored"), account);
        let text = std::fs::read_to_string(one.path().join(FILE)).expect("there");
        let secret = base::to_hex(&open_wallet(one.path(), "correct horse").expect("opens").secret());
        assert!(!text.contains(&secret));
        let cut: Vec<&str> = words.split(' ').take(23).collect();
        assert!(restore_wallet(tempfile::tempdir().expect("a folder").path(), &cut.join(" "), "another one").is_err());
        let other = format!("{}abc", &text[..text.len() / 2]);
        std::fs::write(one.path().join(FILE), other).expect("written");
        assert!(wallet_account(one.path()).is_err(), "a damaged file is told from none");
    }

    /// From the BIP-39 reference vectors (MIT): 32 bytes of 0x80.
    #[test]
    fn words_are_those_of_the_standard() {
        let words = words_of(&[0x80; 32]).expect("words");
        assert_eq!(
            words,
            "letter advice cage absurd amount doctor acoustic avoid letter advice cage absurd amount doctor acoustic \
             avoid letter advice cage absurd amount doctor acoustic bless"
        );
    }
}
