//! How fast a model is on this machine, before anybody asks it.

use crate::local::Served;
use market::Piece;
use std::sync::Arc;
use std::time::Duration;

/// Tokens that are read and written to learn how fast a model is here.
const TRIAL: (usize, u64) = (96, 12);

/// Tokens a second, of a question and of an answer.
pub(super) async fn measure(served: &Arc<Served>) -> (u32, u32) {
    let ask = market::Ask {
        model: served.card().name.clone(),
        input: market::AskInput::Tokens(Vec::new()),
        max_tokens: Some(TRIAL.1),
        sampling: market::Sampling { temperature: 0.0, ..market::Sampling::default() },
        stop: Vec::new(),
        logprobs: None,
        echo: false,
    };
    let room = (served.card().context as usize).saturating_sub(TRIAL.1 as usize + 1);
    let prompt: Vec<i32> = (0..TRIAL.0.min(room).max(1) as i32).map(|i| i % 200 + 5).collect();
    let begun = std::time::Instant::now();
    let read = prompt.len();
    let ready = served.prepare(&[0; 32], true, &ask, prompt, Vec::new(), None);
    let Ok(mut pieces) = ready.and_then(|ready| served.start(ready, None)) else { return (1, 1) };
    let (mut first, mut written) = (None, 0u32);
    while let Some(piece) = pieces.recv().await {
        match piece {
            Piece::Token(_) => {
                first.get_or_insert_with(std::time::Instant::now);
                written += 1;
            }
            Piece::Read { .. } => {}
            Piece::End { .. } => break,
        }
    }
    let first = first.unwrap_or_else(std::time::Instant::now);
    let rate = |n: u32, time: Duration| ((f64::from(n) / time.as_secs_f64().max(1e-6)) as u32).max(1);
    (rate(read as u32, first - begun), rate(written.saturating_sub(1).max(1), first.elapsed()))
}
