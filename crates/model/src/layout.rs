//! Where each tensor lies in the flat vectors.

use crate::ModelConfig;

/// A contiguous part of the model: one stage of a pipeline, or all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Whether it begins with the embedding.
    pub embedding: bool,
    /// Its blocks.
    pub blocks: std::ops::Range<usize>,
    /// Whether it ends with the final norm and the head.
    pub head: bool,
}

impl Part {
    /// The whole model.
    pub fn whole(config: &ModelConfig) -> Self {
        Self { embedding: true, blocks: 0..config.num_hidden_layers, head: true }
    }

    /// `n` parts of nearly equal numbers of blocks.
    pub fn split(config: &ModelConfig, n: usize) -> Vec<Self> {
        let blocks = config.num_hidden_layers;
        (0..n)
            .map(|i| Self { embedding: i == 0, blocks: i * blocks / n..(i + 1) * blocks / n, head: i + 1 == n })
            .collect()
    }
}

/// One named tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// Hugging Face's name.
    pub name: String,
    /// `[out, in]`, or `[n]`.
    pub shape: Vec<usize>,
    /// First element in the flat vector.
    pub offset: usize,
}

impl Param {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no element (a checked configuration has none such).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements in the flat vector.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }

    /// Whether weight decay and sparse coding apply.
    pub fn is_matrix(&self) -> bool {
        self.shape.len() == 2
    }
}

/// The tensors of a part in canonical order, which is the state-dict order of Hugging Face.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// In order.
    pub params: Vec<Param>,
    /// Elements of the flat vector.
    pub len: usize,
}

impl Layout {
    /// Layout of `part`.
    pub fn new(config: &ModelConfig, part: &Part) -> Self {
        let (c, f, v) = (config.hidden_size, config.intermediate_size, config.vocab_size);
        let q = config.num_attention_heads * config.head_dim;
        let kv = config.num_key_value_heads * config.head_dim;
        let mut layout = Self { params: Vec::new(), len: 0 };
        if part.embedding {
            layout.add("model.embed_tokens.weight".into(), vec![v, c]);
        }
        for block in part.blocks.clone() {
            let mut add = |name: &str, shape| layout.add(format!("model.layers.{block}.{name}.weight"), shape);
            add("self_attn.q_proj", vec![q, c]);
            add("self_attn.k_proj", vec![kv, c]);
            add("self_attn.v_proj", vec![kv, c]);
            add("self_attn.o_proj", vec![c, q]);
            add("mlp.gate_proj", vec![f, c]);
            add("mlp.up_proj", vec![f, c]);
            add("mlp.down_proj", vec![c, f]);
            add("input_layernorm", vec![c]);
            add("post_attention_layernorm", vec![c]);
        }
        if part.head {
            layout.add("model.norm.weight".into(), vec![c]);
            if !config.tie_word_embeddings {
                layout.add("lm_head.weight".into(), vec![v, c]);
            }
        }
        layout
    }

    fn add(&mut self, name: String, shape: Vec<usize>) {
        let param = Param { name, shape, offset: self.len };
        self.len += param.len();
        self.params.push(param);
    }
}

/// Tensors that each block has, in layout order.
pub(crate) const PER_BLOCK: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_together_are_the_whole() {
        let mut config = ModelConfig::preset("nano", 64, 64).expect("nano");
        config.tie_word_embeddings = false;
        config.num_hidden_layers = 5;
        let whole = Layout::new(&config, &Part::whole(&config));
        for n in 1..=5 {
            let parts = Part::split(&config, n);
            let names: Vec<String> =
                parts.iter().flat_map(|p| Layout::new(&config, p).params).map(|p| p.name).collect();
            let expected: Vec<String> = whole.params.iter().map(|p| p.name.clone()).collect();
            assert_eq!(names, expected, "{n} parts");
        }
    }
}
