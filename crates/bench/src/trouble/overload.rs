//! More questions than can be answered: from clients that ask alike, and from one that asks a hundred times as often.

use super::offered;
use crate::market::question;
use crate::pair::start;
use crate::serve::{prompt, written};
use crate::{Bar, Book, Figure, Measured, median};
use anyhow::{Result, ensure};
use engine::{Engine, EngineConfig};
use market::Piece;
use node::Node;
use serving::{Local, OfferConfig, Served, Trade, TradeConfig};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: usize = 4;
const OVERLOAD: Duration = Duration::from_secs(120);
/// Capacity is measured over this with each number of closed loops.
const STEP: Duration = Duration::from_secs(20);
/// Measurements of the same; the median of them counts.
const ROUNDS: usize = 3;
/// Closed loops of each client, at most.
const LOOPS_MAX: usize = 6;
/// More loops that get less than so much more answered find nothing more.
const GROWS: f64 = 1.03;
/// How much more often the greedy one asks than each of the others.
const GREED: f64 = 100.0;

const COMPLETED: Figure<'static> =
    Figure { name: "serve.overload.completed", unit: "% of capacity", bar: Bar::Least(95.0), goal: ">= 98" };
const ATTEMPTS: Figure<'static> =
    Figure { name: "serve.overload.attempts", unit: "per answer", bar: Bar::Most(1.2), goal: "<= 1.05" };
const FAIRNESS: Figure<'static> =
    Figure { name: "serve.overload.fairness", unit: "Jain", bar: Bar::Least(0.95), goal: ">= 0.99" };
const ANSWERED: Figure<'static> =
    Figure { name: "serve.overload.answered", unit: "% of questions", bar: Bar::Printed, goal: "50 is the limit" };
pub(super) const FIGURES: [Figure<'static>; 4] = [COMPLETED, ATTEMPTS, FAIRNESS, ANSWERED];

type Client = (Arc<Node>, Arc<Trade>);

/// Two providers of two places each, four clients.
pub(super) async fn measure(book: &mut Book) -> Result<()> {
    let stage = tempfile::tempdir()?;
    let (providers, clients) = network(stage.path()).await?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(overload(&clients).await?);
    }
    // Each value is the median of the rounds.
    let of = |part: fn(&Round) -> f64| rounds.iter().map(part).collect::<Vec<f64>>();
    let capacity = median(of(|round| round.capacity));
    // Each of the others asks for half of its share, and could have all of it.
    let modest = capacity / (2 * CLIENTS) as f64;
    let mut unequal = [modest; CLIENTS];
    unequal[0] = GREED * modest;
    let greedy = phase(&clients, OVERLOAD, Ask::Rates(unequal)).await;
    let said: Vec<String> = rounds.iter().map(|round| format!("{:.1}", round.capacity)).collect();
    let how = format!(
        "two providers of two places each, {CLIENTS} clients that ask for {} s at twice the rate that is answered at most, which is \
         measured right before ({}/s in {ROUNDS} rounds, with more and more closed loops of each client until more get no more); the \
         median of {ROUNDS} rounds",
        OVERLOAD.as_secs(),
        said.join(", "),
    );
    book.full(COMPLETED, of(|round| 100.0 * round.load.answers() / OVERLOAD.as_secs_f64() / round.capacity), &how);
    let how = format!(
        "providers asked for each answer in the same minutes, the tries of questions without an answer counted; {:.0} % of the \
         questions were refused without asking anybody",
        median(of(|round| 100.0 * round.load.untried as f64 / round.load.asked.max(1) as f64))
    );
    book.full(ATTEMPTS, of(|round| round.load.tries as f64 / round.load.answers().max(1.0)), &how);
    let share = of(|round| 100.0 * round.load.answers() / round.load.asked.max(1) as f64);
    book.full(ANSWERED, share, "of the questions of the same minutes; the rest is told when to come back");
    // What each should have: the others all that they ask for, the greedy one the rest.
    let due = modest * OVERLOAD.as_secs_f64();
    let rest = capacity * OVERLOAD.as_secs_f64() - due * (CLIENTS - 1) as f64;
    let parts: Vec<f64> =
        greedy.done.iter().enumerate().map(|(i, n)| *n as f64 / if i == 0 { rest } else { due }).collect();
    let alike = median(of(|round| jain(&round.load.done.iter().map(|n| *n as f64).collect::<Vec<_>>())));
    let unlike = jain(&parts.iter().map(|part| part.min(1.0)).collect::<Vec<_>>());
    let how = format!(
        "the worse of two: answers of each client where all ask alike ({alike:.3}), and where one asks {GREED} times as often as each \
         of the others, who ask for half of their share: parts of what is due to each, {unlike:.3} (the greedy one {:.2}, the others \
         {:.2?})",
        parts[0],
        &parts[1..]
    );
    book.full(FAIRNESS, Measured::out_of(alike.min(unlike), &[alike, unlike]), &how);
    for (node, trade) in clients.into_iter().chain(providers) {
        trade.close().await;
        node.close().await?;
    }
    Ok(())
}

/// One measurement of what is answered at most, and then of twice as many questions.
struct Round {
    /// Answers a second.
    capacity: f64,
    load: Load,
}

async fn overload(clients: &[Client]) -> Result<Round> {
    // More and more at a time until no more is answered: one number of loops may leave places idle.
    let mut capacity = 0.0f64;
    for loops in 1..=LOOPS_MAX {
        let rate = phase(clients, STEP, Ask::Loops(loops)).await.answers() / STEP.as_secs_f64();
        let grew = rate >= capacity * GROWS;
        capacity = capacity.max(rate);
        if !grew {
            break;
        }
    }
    ensure!(capacity > 0.0, "nothing is answered");
    let load = phase(clients, OVERLOAD, Ask::Rates([2.0 * capacity / CLIENTS as f64; CLIENTS])).await;
    Ok(Round { capacity, load })
}

fn jain(values: &[f64]) -> f64 {
    let (sum, squares) = (values.iter().sum::<f64>(), values.iter().map(|n| n * n).sum::<f64>());
    if squares > 0.0 { sum * sum / (values.len() as f64 * squares) } else { 0.0 }
}

async fn network(stage: &Path) -> Result<(Vec<Client>, Vec<Client>)> {
    let path = stage.join("figure.gguf");
    written(&path, "small")?;
    let mut providers: Vec<Client> = Vec::new();
    for i in 0..2 {
        let engine = Engine::load(EngineConfig {
            path: path.clone(),
            hash: None,
            threads: 1,
            slots: 2,
            context: 512,
            memory: 0,
            vram: 0,
        })?;
        let offer = OfferConfig { public: true, ..OfferConfig::default() };
        let config = TradeConfig { offer, ..TradeConfig::default() };
        let local = Local::new(vec![Served::new(engine)]);
        let provider = start(&stage.join(format!("provider-{i}")), local, config, &[]).await?;
        if let Some((_, first)) = providers.first() {
            provider.1.join(&first.ticket(first.networks()[0]))?;
        }
        providers.push(provider);
    }
    let first = providers[0].1.clone();
    let ticket = first.ticket(first.networks()[0]);
    let mut clients = Vec::new();
    for i in 0..CLIENTS {
        let client = start(&stage.join(format!("client-{i}")), Local::default(), TradeConfig::default(), &[]).await?;
        client.1.join(&ticket)?;
        offered(&client.1, 2, 0).await?;
        clients.push(client);
    }
    Ok((providers, clients))
}

/// How clients ask.
#[derive(Clone, Copy)]
enum Ask {
    /// So many times each: a new question whenever an answer came.
    Loops(usize),
    /// At these rates, whatever comes.
    Rates([f64; CLIENTS]),
}

/// What came of it.
struct Load {
    /// Answers of each client.
    done: Vec<u64>,
    asked: u64,
    tries: u64,
    /// Questions that ended before anybody was asked.
    untried: u64,
}

impl Load {
    fn answers(&self) -> f64 {
        self.done.iter().sum::<u64>() as f64
    }
}

async fn phase(clients: &[Client], time: Duration, how: Ask) -> Load {
    let counts = || {
        let all = clients.iter().map(|(_, trade)| (trade.asked(), trade.refused()));
        all.fold((0, 0, 0), |sum, ((asked, tries), untried)| (sum.0 + asked + untried, sum.1 + tries, sum.2 + untried))
    };
    let before = counts();
    let done: Arc<Vec<AtomicU64>> = Arc::new((0..CLIENTS).map(|_| AtomicU64::new(0)).collect());
    let end = Instant::now() + time;
    let mut tasks = tokio::task::JoinSet::new();
    for (i, (_, trade)) in clients.iter().enumerate() {
        match how {
            Ask::Loops(loops) => {
                for k in 0..loops {
                    let (trade, done) = (trade.clone(), done.clone());
                    tasks.spawn(async move {
                        let mut n = (i * LOOPS_MAX + k) * 1_000_000;
                        while Instant::now() < end {
                            n += 1;
                            ask(trade.clone(), done.clone(), i, n, end).await;
                        }
                    });
                }
            }
            Ask::Rates(rates) => {
                let (trade, done) = (trade.clone(), done.clone());
                tasks.spawn(async move {
                    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rates[i]));
                    let mut asked = tokio::task::JoinSet::new();
                    let mut n = i * 1_000_000;
                    while Instant::now() < end {
                        ticks.tick().await;
                        n += 1;
                        asked.spawn(ask(trade.clone(), done.clone(), i, n, end));
                        while asked.try_join_next().is_some() {}
                    }
                    asked.abort_all();
                });
            }
        }
    }
    while tasks.join_next().await.is_some() {}
    let after = counts();
    let done = done.iter().map(|n| n.load(Ordering::Relaxed)).collect();
    Load { done, asked: after.0 - before.0, tries: after.1 - before.1, untried: after.2 - before.2 }
}

async fn ask(trade: Arc<Trade>, done: Arc<Vec<AtomicU64>>, client: usize, seed: usize, end: Instant) {
    let Ok(mut pieces) = trade.ask(&[6; 32], "load", question(prompt(seed, 32), 48)).await else {
        // Who is refused does not ask again in the same moment.
        return tokio::time::sleep(Duration::from_millis(5)).await;
    };
    while let Some(piece) = pieces.recv().await {
        if let Piece::End { finish: Ok(_), .. } = piece
            && Instant::now() < end
        {
            done[client].fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn fairness_is_one_where_all_have_the_same() {
        let check = |values: &[f64], expect: f64| assert!((super::jain(values) - expect).abs() < 1e-9, "{values:?}");
        check(&[3.0; 4], 1.0);
        check(&[5.0, 0.0, 0.0, 0.0], 0.25);
        check(&[0.0; 4], 0.0);
    }
}
