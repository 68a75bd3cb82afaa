//! What answers used.

use serde_json::{Value, json};

/// What was read and written.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) prompt: u64,
    pub(crate) cached: u64,
    pub(crate) written: u64,
}

impl Usage {
    pub(crate) fn add(&mut self, other: &Self) {
        // Several answers to one question: the question counts once.
        self.prompt = self.prompt.max(other.prompt);
        self.cached = self.cached.max(other.cached);
        self.written += other.written;
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.written,
            "total_tokens": self.prompt + self.written,
            "prompt_tokens_details": { "cached_tokens": self.cached },
        })
    }
}
