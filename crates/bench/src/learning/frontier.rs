//! Loss over bytes, as a table and a picture that are committed.

use super::{Best, ROWS, Row, SEQ_LEN, SIZE, WORKERS};
use anyhow::Result;
use std::fmt::Write;

/// Writes `docs/frontier.md` and `docs/frontier.svg`.
pub(super) fn write(rows: &[Row], (one, own, alone): (&Best, &Best, &Best), stamp: &str) -> Result<()> {
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by(|a, b| b.mean().bits_per_token.total_cmp(&a.mean().bits_per_token));
    let (one_bits, alone_bits) = (one.row.mean().bits_per_byte, alone.row.mean().bits_per_byte);
    let over = |bits: f64, one: f64| 100.0 * (bits / one - 1.0);
    let mut text = String::new();
    writeln!(text, "# Loss over bytes\n")?;
    writeln!(
        text,
        "What each kind of round costs in loss at equal tokens, and what it saves in bytes. Written by\n\
         `claims --full learning` ({stamp}); do not edit.\n"
    )?;
    writeln!(
        text,
        "{WORKERS} workers in one process with the real codec and the real apply, no network; size `{SIZE}` (1.1 M parameters),\n\
         {} tokens of the shipped corpus, {} tokens per inner step, peak learning rate {} for every row. `bits/token` is\n\
         what all members send together, each update counted once, per token of training. With `delay` a round begins before\n\
         the last one is applied. Small and short: measure again at your scale.\n",
        one.row.setting.tokens,
        ROWS * SEQ_LEN as u64,
        one.row.setting.lr
    )?;
    writeln!(
        text,
        "Held-out bits per byte, the mean over seeds and from the least to the most:\n\n\
         - one machine, same global batch, best learning rate: **{}**\n\
         - one machine, as many tokens, its own best batch and learning rate: **{}** ({:+.1} %)\n\
         - one member alone with a quarter of the tokens, as if four were four times as fast, its own best batch and learning\n  \
         rate: **{}** ({:+.1} %)\n",
        one.text(),
        own.text(),
        over(own.row.mean().bits_per_byte, one_bits),
        alone.text(),
        over(alone_bits, one_bits)
    )?;
    writeln!(text, "![loss over bits per token](frontier.svg)\n")?;
    writeln!(
        text,
        "| rounds | H | density | bits | delay | bits/parameter | bits/token | bits/byte held out | least to most | over one machine | better than alone | seeds |"
    )?;
    writeln!(text, "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")?;
    for row in &rows {
        let (setting, outcome, (least, most)) = (row.setting, row.mean(), row.spread());
        let (sparsity, bits) = setting.format.unwrap_or_default();
        writeln!(
            text,
            "| {} | {} | 1/{} | {bits} | {} | {:.3} | {:.1} | {:.4} | {least:.4}–{most:.4} | {:+.1} % | {:+.1} % | {} |",
            if setting.gradients { "gradients" } else { "local" },
            setting.inner_steps,
            1u32 << sparsity,
            u8::from(setting.delay),
            outcome.bits_per_parameter,
            outcome.bits_per_token,
            outcome.bits_per_byte,
            over(outcome.bits_per_byte, one_bits),
            -over(outcome.bits_per_byte, alone_bits),
            row.outcomes.len(),
        )?;
    }
    std::fs::write("docs/frontier.md", text)?;
    let points: Vec<(f64, f64, String, bool)> = (rows.iter())
        .map(|row| {
            let (setting, outcome) = (row.setting, row.mean());
            let (sparsity, bits) = setting.format.unwrap_or_default();
            let delay = if setting.delay { " delay 1" } else { "" };
            let label = if setting.gradients {
                format!("gradients 1/{} {bits} bit{delay}", 1u32 << sparsity)
            } else {
                format!("H {} 1/{} {bits} bit{delay}", setting.inner_steps, 1u32 << sparsity)
            };
            (outcome.bits_per_token, over(outcome.bits_per_byte, one_bits), label, setting.gradients)
        })
        .collect();
    std::fs::write("docs/frontier.svg", picture(&points, over(alone_bits, one_bits)))?;
    Ok(())
}

/// A scatter: bits per token on a logarithmic axis, percent over one machine upwards.
fn picture(points: &[(f64, f64, String, bool)], alone: f64) -> String {
    const W: f64 = 900.0;
    const H: f64 = 480.0;
    const LEFT: f64 = 70.0;
    const BOTTOM: f64 = 60.0;
    let xs = || points.iter().map(|p| p.0.log10());
    let (x0, x1) = (xs().fold(f64::MAX, f64::min).floor(), xs().fold(f64::MIN, f64::max).ceil());
    let top = points.iter().map(|p| p.1).fold(alone, f64::max).ceil() + 1.0;
    let low = points.iter().map(|p| p.1).fold(0.0, f64::min).floor();
    let x = |value: f64| LEFT + (value.log10() - x0) / (x1 - x0) * (W - LEFT - 150.0);
    let y = |value: f64| H - BOTTOM - (value - low) / (top - low) * (H - BOTTOM - 30.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {W} {H}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{W}\" height=\"{H}\" fill=\"#ffffff\"/>\n"
    );
    let mut line = |at: f64, colour: &str, label: &str| {
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"{colour}\"/><text x=\"{}\" y=\"{:.1}\" \
             fill=\"{colour}\">{label}</text>",
            W - 150.0,
            W - 144.0,
            at + 4.0
        );
    };
    line(y(0.0), "#2a7f3f", "one machine");
    line(y(alone), "#b03a2e", "one member alone");
    let mut tick = low;
    while tick <= top {
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">{tick:+} %</text>",
            LEFT - 8.0,
            y(tick) + 4.0
        );
        tick += 2.0;
    }
    for power in x0 as i32..=x1 as i32 {
        let value = 10f64.powi(power);
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{value}</text>",
            x(value),
            H - BOTTOM + 20.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">bits sent per token of training (all members, each update once)</text>",
        (LEFT + W - 150.0) / 2.0,
        H - 14.0
    );
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"18\">held-out loss over one machine at equal tokens</text>");
    for (bits, loss, label, gradients) in points {
        let colour = if *gradients { "#7d3c98" } else { "#1f618d" };
        let _ = writeln!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\">{label}</text>",
            x(*bits),
            y(*loss),
            x(*bits) + 8.0,
            y(*loss) + 4.0
        );
    }
    out.push_str("</svg>\n");
    out
}
