//! The owner is back: from a key on the keyboard until the processors are free, as `talkoo up` runs where nobody says
//! otherwise.
//!
//! The keyboard is one of files: in a mount namespace of its own the node finds a controller whose interrupts this program
//! counts up.

use super::{Contributor, contribute_within};
use crate::cpu::Cpu;
use crate::{Bar, Book, Measured};
use anyhow::{Context, Result, ensure};
use node::ControlRequest;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const RETURNS: usize = 5;
/// The process is looked at this often.
const STEP: Duration = Duration::from_millis(20);
/// A process that computes for less than this part of a core is at rest.
const REST: f64 = 0.05;
/// So many steps of rest follow on each other, or it only waited for something.
const RESTS: usize = 5;
/// It is done within this, or it does not notice.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) async fn measure(book: &mut Book) -> Result<()> {
    let stage = tempfile::tempdir()?;
    let mut free = Vec::new();
    for i in 0..RETURNS {
        let keyboard = Keyboard::new(&stage.path().join(format!("keyboard-{i}")))?;
        let node = keyboard.contribute(&stage.path().join(format!("node-{i}")))?;
        // Its corpus is made, and it trains.
        node.first_unit().await.context("a node in a mount namespace with a keyboard that nobody uses")?;
        node.computes().await?;
        // Its looks at the machine and the keys know nothing of each other.
        tokio::time::sleep(Duration::from_millis(500 + 37 * i as u64)).await;
        let begun = Instant::now();
        keyboard.press()?;
        free.push(freed(&node, begun).await?);
        let panel = node.ask(ControlRequest::Panel).await?;
        ensure!(
            panel["activity"]["state"] == "paused",
            "it does not compute, but for another reason: {}",
            panel["activity"]
        );
    }
    let worst = free.iter().copied().fold(0.0, f64::max);
    let how = format!(
        "`talkoo up --when idle`, the default, trains on all cores; from an interrupt of a keyboard (files in a mount namespace) until \
         its threads were on a processor for less than a twentieth of a core, looked at every {} ms, {RESTS} times in a row; the worst \
         of {RETURNS}. Where a desktop is asked for its owner it takes up to 500 ms more",
        STEP.as_millis()
    );
    book.add("quick", "owner.return.cpu", (Measured::out_of(worst, &free), "s"), Bar::Most(1.0), "<= 0.2", &how);
    Ok(())
}

/// Seconds until the first of some looks in a row at which a node rests.
async fn freed(node: &Contributor, begun: Instant) -> Result<f64> {
    let (mut before, mut at) = (node.cpu()?, Instant::now());
    let (mut first, mut rests) = (at, 0);
    loop {
        tokio::time::sleep(STEP).await;
        let (now, then): (Cpu, Instant) = (node.cpu()?, Instant::now());
        if now.since(&before) / (then - at).as_secs_f64() < REST {
            if rests == 0 {
                first = at;
            }
            rests += 1;
        } else {
            rests = 0;
        }
        if rests == RESTS {
            return Ok((first - begun).as_secs_f64());
        }
        ensure!(begun.elapsed() < LIMIT, "it goes on computing");
        (before, at) = (now, then);
    }
}

/// A built-in keyboard, as the kernel shows one.
struct Keyboard {
    dir: PathBuf,
    /// No terminals: whoever measures this may have used one.
    terminals: PathBuf,
}

/// Its folder and that of the terminals go over the kernel's, then the node begins.
const WITHIN: &str = "mount --bind \"$1\" /sys/kernel/irq && mount --bind \"$2\" /dev/pts && shift 2 && exec \"$@\"";

impl Keyboard {
    fn new(dir: &Path) -> Result<Self> {
        let keyboard = Self { dir: dir.to_owned(), terminals: dir.with_extension("none") };
        std::fs::create_dir_all(keyboard.dir.join("1"))?;
        std::fs::create_dir_all(&keyboard.terminals)?;
        std::fs::write(keyboard.dir.join("1/actions"), "i8042\n")?;
        std::fs::write(keyboard.dir.join("1/per_cpu_count"), "0\n")?;
        Ok(keyboard)
    }

    fn press(&self) -> Result<()> {
        // Beside it first: whoever reads meanwhile sees one count or the other one.
        let new = self.dir.join("count");
        std::fs::write(&new, "1\n")?;
        Ok(std::fs::rename(new, self.dir.join("1/per_cpu_count"))?)
    }

    fn contribute(&self, dir: &Path) -> Result<Contributor> {
        let (keyboard, terminals) = (self.dir.to_str().context("UTF-8")?, self.terminals.to_str().context("UTF-8")?);
        // No desktop is asked either.
        let through = [
            "env",
            "-u",
            "DBUS_SESSION_BUS_ADDRESS",
            "-u",
            "WAYLAND_DISPLAY",
            "unshare",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            WITHIN,
            "sh",
            keyboard,
            terminals,
        ];
        contribute_within(&through, dir, &["--when", "idle"]).context("unshare (util-linux), with user namespaces")
    }
}
