//! How a keeper ends its process. The node's own chain does not get better by itself where its state may be half
//! changed, or its disk takes nothing any more. A process that lives on with it looks well from outside, and no service
//! manager starts it again. So it ends, says why, and what is on disk is where the next one begins. A chain that is only
//! followed may be a stranger's, made to fail: it ends its own keeper, never the process.

use chain::{Genesis, Orderer};
use std::any::Any;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// The process ended because the chain's own code panicked: what `sysexits.h` calls an internal error.
pub const EXIT_PANIC: i32 = 70;
/// The process ended because the disk took no more of the chain: what `sysexits.h` calls an error of input or output.
pub const EXIT_DISK: i32 = 74;

/// What a chain that failed ends: the process, or its keeper alone.
#[derive(Clone)]
pub(crate) struct Failure {
    pub(crate) ends: bool,
    pub(crate) trouble: watch::Sender<Option<String>>,
    pub(crate) failed: Arc<AtomicBool>,
}

impl Failure {
    /// Ends the process, or notes that the keeper is at its end; says why.
    pub(crate) fn fail(&self, code: i32, why: &str) {
        if self.ends {
            end(code, why);
        }
        // The first reason is the one, and it is there for whoever sees that the chain failed.
        self.trouble.send_if_modified(|trouble| {
            if self.failed.load(Ordering::Relaxed) {
                return false;
            }
            tracing::error!(why, "a chain that is followed here stops");
            *trouble = Some(format!("this chain stopped here: {why}"));
            self.failed.store(true, Ordering::Relaxed);
            true
        });
    }

    /// The same because of a panic.
    pub(crate) fn fail_by_panic(&self, panic: &(dyn Any + Send)) {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given");
        let why = format!(
            "the chain's code failed, and its state in memory cannot be trusted: {text}. Start the node again: it goes on \
             with what is on disk. If it fails again, every node of the network does, and a newer version is needed"
        );
        self.fail(EXIT_PANIC, &why);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

/// Ends the process and says why.
fn end(code: i32, why: &str) -> ! {
    tracing::error!(code, why, "the chain ends this process");
    // Also where nobody reads the log; not by a macro, for a test keeps what those print.
    let _ = writeln!(std::io::stderr(), "error: {why}");
    std::process::exit(code)
}

/// The orderer of a keeper. A panic under its lock ends the process, or the keeper.
#[derive(Clone)]
pub(crate) struct Shared {
    orderer: Arc<Mutex<Orderer>>,
    genesis: Arc<Genesis>,
    pub(crate) failure: Failure,
}

impl Shared {
    pub(crate) fn new(orderer: Orderer, genesis: Genesis, failure: Failure) -> Self {
        Self { orderer: Arc::new(Mutex::new(orderer)), genesis: Arc::new(genesis), failure }
    }

    /// # Panics
    /// When `look` does and the process lives on. Who looks later sees the chain's beginning, and no panic.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut Orderer) -> T) -> T {
        let mut orderer = self.orderer.lock().expect("no panic gets past this lock");
        match catch_unwind(AssertUnwindSafe(|| look(&mut orderer))) {
            Ok(seen) => seen,
            Err(panic) => {
                self.failure.fail_by_panic(panic.as_ref());
                // What was left half done would be taken for the state.
                *orderer = Orderer::new(&self.genesis);
                drop(orderer);
                resume_unwind(panic)
            }
        }
    }
}
