//! Places at which a test may kill the process, to see that nothing is lost and nothing done twice. Only builds with debug
//! assertions have them: what ships cannot be killed so.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// `label:n` in the environment: the process is killed when it passes the place for the n-th time.
const VARIABLE: &str = "TALKOO_CRASH_AT";

static WANTED: LazyLock<Option<(String, AtomicU64)>> = LazyLock::new(|| {
    let text = std::env::var(VARIABLE).ok()?;
    let (label, n) = text.split_once(':')?;
    Some((label.to_owned(), AtomicU64::new(n.parse().ok()?)))
});

/// A place of that name.
pub(crate) fn point(label: &str) {
    if !cfg!(debug_assertions) {
        return;
    }
    let Some((wanted, left)) = &*WANTED else { return };
    if wanted == label && left.fetch_sub(1, Ordering::Relaxed) == 1 {
        // Nothing of the process runs after this, no destructor and no flush.
        let _ = std::process::Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status();
        std::process::abort();
    }
}
