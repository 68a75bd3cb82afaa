//! The key of a relay, kept in its data folder.

use anyhow::{Context, Result};
use host::{private_folder, write_private};
use net::RelayKey;
use std::path::Path;

/// Where its certificate and its secret key are, both DER.
const FILES: [&str; 2] = ["relay-certificate", "relay-key"];

/// The key of the folder's relay; made on first use, the same ever after, so that its address stays.
pub fn relay_key(dir: &Path) -> Result<RelayKey> {
    private_folder(dir).with_context(|| dir.display().to_string())?;
    let [certificate, secret] = FILES.map(|file| dir.join(file));
    let read = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
    if !certificate.exists() {
        let key = RelayKey::generate()?;
        // Of a start that was cut off between the two: nobody knows a certificate for it.
        let _ = std::fs::remove_file(&secret);
        write_private(&secret, &key.secret)?;
        host::write_whole(&certificate, &key.certificate, true)?;
    }
    Ok(RelayKey { certificate: read(&certificate)?, secret: read(&secret)? })
}
