//! `make claims`: measures what the project claims and says plainly where it falls short.
//!
//! Each figure is printed as `claim NAME value unit bar holds|falls-short` and kept in
//! `claims/results.json`, after each area. The quick tier is measured each time; figures of the full tier keep their
//! last measurement with its commit and date, or stand as not measured. `claims --check` says which fall short, got worse,
//! or are older than the code.

mod book;
mod chain;
mod check;
mod codec;
mod cpu;
mod git;
mod grid;
mod learning;
mod ledger;
mod link;
mod market;
mod network;
mod owner;
mod pair;
mod rounds;
mod schedules;
mod serve;
mod star;
mod step;
mod time;
mod trouble;
mod zoo;

pub(crate) use book::{Bar, Book, Figure, Measured};

use anyhow::{Result, bail};

/// What can be measured by itself: `claims [--full | --check] [AREA…]`.
const AREAS: [&str; 16] = [
    "codec",
    "ledger",
    "network",
    "schedules",
    "rounds",
    "serve",
    "market",
    "kills",
    "across",
    "overload",
    "zoo",
    "owner",
    "link",
    "time",
    "learning",
    "step",
];

fn main() -> Result<()> {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("TALKOO_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--step-only") {
        return step::own();
    }
    if let [hub, homes] = arguments.as_slice()
        && hub == "--hub"
    {
        return star::hub(homes.parse()?);
    }
    let usage = format!("claims [--full | --check] [AREA…]; areas: {}", AREAS.join(", "));
    if let Some(unknown) = arguments.iter().find(|a| a.starts_with('-') && !["--full", "--check"].contains(&a.as_str()))
    {
        bail!("unknown option `{unknown}`\n{usage}");
    }
    let full = arguments.iter().any(|argument| argument == "--full");
    let areas: Vec<&str> = arguments.iter().map(String::as_str).filter(|a| !a.starts_with("--")).collect();
    if let Some(unknown) = areas.iter().find(|area| !AREAS.contains(area)) {
        bail!("unknown area `{unknown}`\n{usage}");
    }
    let asked = |area: &str| areas.is_empty() || areas.contains(&area);
    let mut book = Book::open()?;
    if arguments.iter().any(|argument| argument == "--check") {
        book.write()?;
        if !check::report(book.claims(), &book::history()?, &check::explained()?) {
            // The findings above say why; a backtrace would hide them.
            std::process::exit(1);
        }
        return Ok(());
    }
    for area in AREAS.into_iter().filter(|area| asked(area)) {
        book.area(area, full, |book| measure(book, area, full))?;
    }
    let short = book.claims().iter().filter(|claim| !claim.holds).count();
    println!("{} figures, {short} fall short or are not measured; claims/results.json", book.claims().len());
    Ok(())
}

fn measure(book: &mut Book, area: &str, full: bool) -> Result<()> {
    match area {
        "codec" => codec::measure(book),
        "ledger" => {
            ledger::measure(book);
            return chain::measure(book);
        }
        "network" => return network::measure(book, full),
        "schedules" => return schedules::measure(book),
        "rounds" => return rounds::measure(book),
        "serve" => return serve::measure(book),
        "market" => return market::measure(book),
        "kills" | "across" | "overload" => return trouble::measure(book, area, full),
        "zoo" => return zoo::measure(book, full),
        "owner" => return owner::measure(book, full),
        "link" => return link::measure(book, full),
        "time" => return time::measure(book, full),
        "learning" => return learning::measure(book, full),
        "step" => return step::measure(book, full),
        _ => bail!("nothing measures {area}"),
    }
    Ok(())
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

/// A process that ends with its figure.
pub(crate) struct Process(pub(crate) std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The median of some measurements.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
