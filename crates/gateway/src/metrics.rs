//! What `/metrics` says, in Prometheus' text format and with the names that vLLM gave them, under `talkoo_`.

use crate::usage::Usage;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper ends of the classes of times, in seconds.
const TIMES: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
/// Paths that are counted by name; all others together.
const PATHS: [&str; 5] = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/models"];

/// Everything that is counted.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    running: AtomicI64,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    generation_tokens: AtomicU64,
    first: Times,
    whole: Times,
}

/// How long something took, counted in classes.
#[derive(Debug, Default)]
struct Times {
    classes: [AtomicU64; TIMES.len() + 1],
    micros: AtomicU64,
}

impl Times {
    fn add(&self, took: Duration) {
        let class = TIMES.iter().position(|end| took.as_secs_f64() <= *end).unwrap_or(TIMES.len());
        self.classes[class].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut sum = 0;
        for (i, class) in self.classes.iter().enumerate() {
            sum += class.load(Ordering::Relaxed);
            let end = TIMES.get(i).map_or("+Inf".to_owned(), ToString::to_string);
            let _ = writeln!(out, "{name}_bucket{{le=\"{end}\"}} {sum}");
        }
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {sum}", self.micros.load(Ordering::Relaxed) as f64 / 1e6);
    }
}

impl Metrics {
    pub(crate) fn request(&self, path: &str, status: u16, took: Duration) {
        let path = PATHS.iter().find(|known| **known == path).copied().unwrap_or("other");
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner).entry((path, status)).or_default() += 1;
        if path != "other" {
            self.whole.add(took);
        }
    }

    /// Something is being written until the guard is dropped.
    pub(crate) fn running(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(&self.running)
    }

    pub(crate) fn first_token(&self, after: Duration) {
        self.first.add(after);
    }

    pub(crate) fn used(&self, usage: &Usage) {
        self.prompt_tokens.fetch_add(usage.prompt, Ordering::Relaxed);
        self.cached_tokens.fetch_add(usage.cached, Ordering::Relaxed);
        self.generation_tokens.fetch_add(usage.written, Ordering::Relaxed);
    }

    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let mut one = |name: &str, kind: &str, help: &str, value: i64| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        let n = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as i64;
        one(
            "talkoo_num_requests_running",
            "gauge",
            "Answers that are being written.",
            self.running.load(Ordering::Relaxed),
        );
        one("talkoo_prompt_tokens_total", "counter", "Tokens read.", n(&self.prompt_tokens));
        one(
            "talkoo_prompt_tokens_cached_total",
            "counter",
            "Tokens that had been read before.",
            n(&self.cached_tokens),
        );
        one("talkoo_generation_tokens_total", "counter", "Tokens written.", n(&self.generation_tokens));
        out.push_str("# HELP talkoo_http_requests_total Requests by path and status.\n# TYPE talkoo_http_requests_total counter\n");
        for ((path, status), n) in self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(out, "talkoo_http_requests_total{{path=\"{path}\",status=\"{status}\"}} {n}");
        }
        self.first.write(&mut out, "talkoo_time_to_first_token_seconds", "From the request to the first token.");
        self.whole.write(
            &mut out,
            "talkoo_http_request_duration_seconds",
            "From the request to the head of its answer.",
        );
        out
    }
}

pub(crate) struct Running<'a>(&'a AtomicI64);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_times_add_up() {
        let metrics = Metrics::default();
        metrics.request("/v1/models", 200, Duration::from_millis(20));
        metrics.request("/nowhere", 404, Duration::from_millis(20));
        metrics.first_token(Duration::from_secs(100));
        let text = metrics.text();
        assert!(text.contains("talkoo_http_requests_total{path=\"other\",status=\"404\"} 1"));
        assert!(text.contains("talkoo_http_request_duration_seconds_bucket{le=\"0.025\"} 1"));
        assert!(text.contains("talkoo_time_to_first_token_seconds_bucket{le=\"60\"} 0"));
        assert!(text.contains("talkoo_time_to_first_token_seconds_count 1"));
    }
}
