//! The thread of a model: pass after pass over what its slots have to do.

use crate::load::{EngineConfig, LoadError, ModelInfo, backend};
use crate::plan::{self, Held, Work};
use crate::sample::{Sampler, logprobs};
use crate::text::Text;
use crate::tokens;
use crate::{EngineFinish, Event, Job, Written};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// What the thread is told.
pub(crate) enum Order {
    /// A request.
    Begin(Box<Begin>),
    /// Somebody may write on.
    Wake,
}

/// A request on its way to a slot.
pub(crate) struct Begin {
    pub(crate) job: Job,
    pub(crate) sampler: Sampler,
    pub(crate) events: UnboundedSender<Event>,
}

/// An answer that is being written.
struct Answer {
    job: Job,
    sampler: Sampler,
    events: UnboundedSender<Event>,
    /// Tokens of the prompt that are in the cache.
    read: usize,
    /// From here on the prompt is what somebody else had written: it is read as it was written, one token at a time, for
    /// sums over many tokens round otherwise than sums over one, and a tie may fall differently.
    exact_from: usize,
    cached: usize,
    /// The last token written, which is not in the cache yet.
    next: Option<LlamaToken>,
    written: usize,
    text: Text,
    /// Of the prompt's tokens.
    prompt_logprobs: Vec<Written>,
}

struct Slot {
    held: Held,
    answer: Option<Answer>,
}

/// Begins the thread; it is ready when this returns.
pub(crate) fn start(
    model: Arc<LlamaModel>,
    config: &EngineConfig,
    info: &ModelInfo,
    waiting: Arc<AtomicUsize>,
) -> Result<Sender<Order>, LoadError> {
    let (orders, incoming) = std::sync::mpsc::channel();
    let (ready, begun) = std::sync::mpsc::channel();
    let (threads, slots, context) = (config.threads, info.slots, info.context);
    let failed = |why: String| LoadError::Unknown(config.path.clone(), why);
    let thread = std::thread::Builder::new().name("engine".into());
    let run = move || {
        let threads = i32::try_from(threads).unwrap_or(1).max(1);
        let all = u32::try_from(slots * context).ok().and_then(NonZeroU32::new);
        let params = LlamaContextParams::default()
            .with_n_ctx(all)
            .with_n_seq_max(u32::try_from(slots).unwrap_or(1))
            .with_n_batch(BATCH as u32)
            .with_n_ubatch(plan::CHUNK_MAX as u32)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_kv_unified(false)
            .with_type_v(VALUES)
            .with_no_perf(true);
        let context = match model.new_context(backend(), params) {
            Ok(context) => context,
            Err(error) => return drop(ready.send(Err(error.to_string()))),
        };
        let _ = ready.send(Ok(()));
        let slots = (0..slots).map(|_| Slot { held: Held::default(), answer: None }).collect();
        let batch = LlamaBatch::new(BATCH, 1);
        let queue = VecDeque::new();
        Passes { model: &model, context, batch, slots, queue, waiting, served: 0, clock: 0, rate: FIRST_RATE }
            .run(&incoming);
    };
    thread.spawn(run).map_err(|error| failed(error.to_string()))?;
    match begun.recv() {
        Ok(Ok(())) => Ok(orders),
        Ok(Err(why)) => Err(failed(why)),
        Err(_) => Err(failed("its thread ended".into())),
    }
}

/// Values are kept in another type than keys. With equal types llama.cpp takes two short cuts, and sums then depend on the
/// number of threads, on who else is answered, and on the pieces in which a question was read.
const VALUES: KvCacheType = KvCacheType::BF16;
/// A longer beginning of an answer is read like a question: to read it token by token takes too long.
const EXACT_MAX: usize = 512;
/// How often it is looked for somebody who went away while nothing is to be done.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Tokens of one pass.
const BATCH: usize = plan::CHUNK_MAX + 256;
/// Tokens a second that a prompt is taken to be read at before it was measured.
const FIRST_RATE: f64 = 1_000.0;
/// How much a new measurement counts.
const GAIN: f64 = 0.2;

struct Passes<'a> {
    model: &'a LlamaModel,
    context: LlamaContext<'a>,
    batch: LlamaBatch<'static>,
    slots: Vec<Slot>,
    queue: VecDeque<Begin>,
    /// Requests that wait or are answered.
    waiting: Arc<AtomicUsize>,
    /// The slot whose prompt was read last.
    served: usize,
    /// Counts passes.
    clock: u64,
    /// Tokens of prompts a second.
    rate: f64,
}

impl Slot {
    fn work(&self) -> Work {
        match &self.answer {
            None => Work::Idle,
            Some(answer) if answer.paused() => Work::Idle,
            Some(answer) if answer.next.is_some() => Work::Decode,
            Some(answer) if answer.read >= answer.exact_from => Work::Prompt(1),
            Some(answer) => {
                let left = answer.job.prompt.len().min(answer.exact_from) - answer.read;
                Work::Prompt(if answer.job.echo { left.min(plan::ECHO_ROWS) } else { left })
            }
        }
    }
}

impl Answer {
    /// Whether it may not be written on for now. What is read is paid before.
    fn paused(&self) -> bool {
        self.job.pace.as_ref().is_some_and(|pace| !pace.allows(self.written))
    }
}

impl Passes<'_> {
    /// Until nobody can ask any more.
    fn run(mut self, incoming: &Receiver<Order>) {
        loop {
            loop {
                match incoming.try_recv() {
                    Ok(order) => self.take_order(order),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.let_go();
            self.admit();
            if self.slots.iter().all(|slot| slot.work() == Work::Idle) {
                let order = match self.slots.iter().any(|slot| slot.answer.is_some()) {
                    // Who waits to be paid may have gone away.
                    true => incoming.recv_timeout(LOOK_EVERY),
                    false => incoming.recv().map_err(|_| RecvTimeoutError::Disconnected),
                };
                match order {
                    Ok(order) => self.take_order(order),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                continue;
            }
            self.pass();
        }
    }

    fn take_order(&mut self, order: Order) {
        if let Order::Begin(begin) = order {
            self.queue.push_back(*begin);
        }
    }

    /// Lets go of what nobody waits for any more.
    fn let_go(&mut self) {
        let waiting = &self.waiting;
        self.queue.retain(|begin| {
            let wanted = !begin.events.is_closed();
            if !wanted {
                waiting.fetch_sub(1, Ordering::Relaxed);
            }
            wanted
        });
        for slot in &mut self.slots {
            if slot.answer.as_ref().is_some_and(|answer| answer.events.is_closed()) {
                slot.answer = None;
                slot.held.used = self.clock;
                waiting.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Whose turn it is: the owner's first, else who came first. Others leave the last slot to the owner.
    fn next_in_line(&self) -> Option<usize> {
        let others =
            self.slots.iter().filter(|slot| slot.answer.as_ref().is_some_and(|answer| !answer.job.own)).count();
        let room = others + 1 < self.slots.len().max(2);
        self.queue.iter().position(|begin| begin.job.own).or((room && !self.queue.is_empty()).then_some(0))
    }

    /// Gives idle slots to who waits.
    fn admit(&mut self) {
        while let Some(turn) = self.next_in_line() {
            let begin = &self.queue[turn];
            let idle = self.slots.iter().enumerate().filter(|(_, slot)| slot.answer.is_none());
            let held = idle.map(|(i, slot)| (i, &slot.held));
            let Some((i, common)) = plan::place(held, &begin.job.client, &begin.job.prompt) else { return };
            let Some(mut begin) = self.queue.remove(turn) else { return };
            // Every logit of the prompt is needed: it is read whole.
            let common = if begin.job.echo { 0 } else { common };
            let sequence = i as i32;
            let cut = self.context.kv_cache_seq_rm(sequence, Some(common as u32), None);
            let common = match cut {
                Ok(()) => common,
                // A model whose memory cannot be cut: from the beginning.
                Err(_) => {
                    let _ = self.context.kv_cache_seq_rm(sequence, None, None);
                    0
                }
            };
            let slot = &mut self.slots[i];
            slot.held.client = Some(begin.job.client);
            slot.held.tokens.truncate(common);
            let mut text = Text::new(&begin.job.stop);
            let begun = begin.job.written.len();
            for id in &begin.job.written {
                // Whoever wrote it has shown it.
                let _ = text.push(&tokens::piece(self.model, LlamaToken(*id)));
            }
            begin.job.max_tokens = begin.job.max_tokens.saturating_sub(begun);
            let exact = begin.job.sampling.temperature <= 0.0 && begun <= EXACT_MAX;
            let exact_from = if exact { begin.job.prompt.len() } else { usize::MAX };
            begin.job.prompt.append(&mut begin.job.written);
            slot.answer = Some(Answer {
                sampler: begin.sampler,
                events: begin.events,
                read: common,
                exact_from,
                cached: common,
                next: None,
                written: 0,
                text,
                prompt_logprobs: Vec::new(),
                job: begin.job,
            });
        }
    }

    fn pass(&mut self) {
        self.clock += 1;
        let works: Vec<Work> = self.slots.iter().map(Slot::work).collect();
        let share = plan::pass(&works, plan::chunk(&works, self.rate), self.served);
        self.batch.clear();
        // For each slot: where in the batch its logits begin, and of how many tokens.
        let mut logits = Vec::new();
        let (mut at, mut prompts) = (0, 0);
        for (i, n) in share.iter().copied().enumerate().filter(|(_, n)| *n > 0) {
            let slot = &mut self.slots[i];
            let Some(answer) = &mut slot.answer else { continue };
            let mut add = |token: i32, position: usize, wanted: bool| {
                let added = self.batch.add(LlamaToken(token), position as i32, &[i as i32], wanted);
                debug_assert!(added.is_ok(), "a pass is no longer than the batch");
            };
            match answer.next {
                Some(token) => {
                    add(token.0, slot.held.tokens.len(), true);
                    slot.held.tokens.push(token.0);
                    logits.push((i, at, 1));
                }
                None => {
                    prompts += n;
                    self.served = i;
                    let whole = answer.read + n == answer.job.prompt.len();
                    for k in answer.read..answer.read + n {
                        let last = k + 1 == answer.job.prompt.len();
                        add(answer.job.prompt[k], k, last || answer.job.echo);
                        slot.held.tokens.push(answer.job.prompt[k]);
                    }
                    if answer.job.echo {
                        logits.push((i, at, n));
                    } else if whole {
                        logits.push((i, at + n - 1, 1));
                    }
                }
            }
            at += n;
        }
        let begun = Instant::now();
        if let Err(error) = self.context.decode(&mut self.batch) {
            return self.failed(&error.to_string());
        }
        for (i, first, n) in logits {
            self.take(i, first, n);
        }
        for (i, n) in share.iter().enumerate() {
            if let Some(answer) = self.slots[i].answer.as_mut().filter(|answer| answer.next.is_none()) {
                answer.read += n;
            }
        }
        if prompts >= 32 {
            let rate = prompts as f64 / begun.elapsed().as_secs_f64().max(1e-6);
            self.rate += GAIN * (rate - self.rate);
        }
    }

    /// Takes the logits of a slot, beginning at a place in the batch.
    fn take(&mut self, i: usize, first: usize, n: usize) {
        let slot = &mut self.slots[i];
        let Some(answer) = &mut slot.answer else { return };
        let count = answer.job.logprobs;
        if answer.next.is_none() {
            if answer.job.echo {
                for k in 0..n {
                    // The logits at a token are those of the one behind it.
                    let Some(id) = answer.job.prompt.get(answer.read + k + 1).copied() else { break };
                    let (logprob, top) =
                        logprobs(self.context.get_logits_ith((first + k) as i32), id, count.unwrap_or(0));
                    let bytes = tokens::piece(self.model, LlamaToken(id));
                    answer.prompt_logprobs.push(Written { id, text: String::new(), bytes, logprob, top });
                }
            }
            if answer.read + n < answer.job.prompt.len() && answer.job.echo {
                return;
            }
            let logprobs = std::mem::take(&mut answer.prompt_logprobs);
            let _ = answer.events.send(Event::Read { cached: answer.cached, logprobs });
            // From here on it writes: what was read is all there.
            answer.read = answer.job.prompt.len();
            if answer.text.stopped() {
                return self.done(i, EngineFinish::Stop);
            }
            if answer.job.max_tokens == 0 {
                return self.done(i, EngineFinish::Length);
            }
        }
        let row = self.context.get_logits_ith((first + n - 1) as i32);
        let token = match answer.sampler.choose(row) {
            Ok(Some(token)) => token,
            Ok(None) => return self.done(i, EngineFinish::Stop),
            Err(error) => {
                tracing::error!(%error, "an answer ends: its sampler failed");
                return self.done(i, EngineFinish::Failed);
            }
        };
        if self.model.vocab().is_eog(token) {
            return self.done(i, EngineFinish::Stop);
        }
        let (logprob, top) = count.map_or((0.0, Vec::new()), |count| logprobs(row, token.0, count));
        let bytes = tokens::piece(self.model, token);
        let text = answer.text.push(&bytes);
        answer.written += 1;
        answer.next = Some(token);
        let _ = answer.events.send(Event::Token(Written { id: token.0, text, bytes, logprob, top }));
        if answer.text.stopped() {
            self.done(i, EngineFinish::Stop);
        } else if answer.written >= answer.job.max_tokens {
            self.done(i, EngineFinish::Length);
        }
    }

    fn done(&mut self, i: usize, finish: EngineFinish) {
        let slot = &mut self.slots[i];
        slot.held.used = self.clock;
        if let Some(mut answer) = slot.answer.take() {
            let text = answer.text.rest();
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let _ = answer.events.send(Event::Done { finish, text });
        }
    }

    /// The model failed: nobody's answer goes on, and nothing in the cache is believed.
    fn failed(&mut self, why: &str) {
        tracing::error!(why, "a pass over the model failed");
        self.context.clear_kv_cache();
        for i in 0..self.slots.len() {
            self.slots[i].held = Held::default();
            self.done(i, EngineFinish::Failed);
        }
    }
}
