//! `talkoo model`: models on this machine.

use crate::{Common, render};
use anyhow::Result;
use clap::Subcommand;
use node::ControlRequest;
use serde_json::{Value, json};
use serving::{Doing, Model, Models, Progress, Wanted};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[derive(Subcommand)]
pub(crate) enum ModelCommand {
    /// Fetch a model: from peers first, then from Hugging Face. What was interrupted goes on where it was.
    Pull {
        /// A ticket as `talkoo model publish` prints it, or OWNER/REPO, OWNER/REPO:QUANTISATION, OWNER/REPO/FILE.gguf of
        /// the hub; HF_ENDPOINT, HF_TOKEN and HF_HOME mean what they mean to its own tools.
        what: Wanted,
        /// What it is called on this machine.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// Models on this machine.
    Ls,
    /// One of them: where it is, where it came from, its hashes, its ticket.
    Show {
        /// Its name, or the beginning of its hash.
        model: String,
    },
    /// Remove one from this machine.
    Rm {
        /// As above.
        model: String,
    },
    /// Read models and compare their hashes with what they were when they came.
    Verify {
        /// As above; all of them where none is named.
        model: Option<String>,
    },
    /// Give a model to peers while `talkoo up` or `talkoo serve` runs; prints the ticket with which they fetch it.
    Publish {
        /// As above.
        model: String,
        /// Give it to nobody any more.
        #[arg(long)]
        stop: bool,
    },
    /// Take in a copy of a GGUF file.
    Add {
        /// The file.
        file: PathBuf,
        /// What it is called on this machine (default: the file's name).
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
}

pub(crate) async fn run(common: &Common, command: ModelCommand) -> Result<()> {
    let models = Models::of(&common.dir());
    let budget = common.config.disk_budget(&common.dir());
    let lines = Lines::default();
    let told = |progress: Progress| lines.tell(progress);
    match command {
        ModelCommand::Pull { what, name } => {
            // Its key is replaced: a node on the same folder may run meanwhile.
            let network = common.node()?.net([0; 32]);
            let model = serving::pull(&models, &what, name.as_deref(), (&network, &budget), &told).await?;
            let serve = format!("serve it with: talkoo serve --model {}", model.name);
            render::print(common, &json_of(&models, &model, None), || format!("{}\n{serve}", line(&model)));
        }
        ModelCommand::Ls => {
            let all = models.all()?;
            let list: Vec<Value> = all.iter().map(|model| json_of(&models, model, None)).collect();
            render::print(common, &json!({ "models": list }), || match all.is_empty() {
                true => "no models yet: `talkoo model pull OWNER/REPO` or `talkoo model add FILE.gguf`".into(),
                false => all.iter().map(line).collect::<Vec<_>>().join("\n"),
            });
        }
        ModelCommand::Show { model } => {
            let model = models.find(&model)?;
            show(common, &models, &model, shared(common, &model).await?.as_deref());
        }
        ModelCommand::Rm { model } => {
            let model = models.find(&model)?;
            models.remove(&model)?;
            shared(common, &model).await?;
            render::print(common, &json!({ "removed": model.name }), || format!("{} is removed", model.name));
        }
        ModelCommand::Verify { model } => {
            let all = model.map_or_else(|| models.all(), |model| Ok(vec![models.find(&model)?]))?;
            all.iter().try_for_each(|model| models.verify(model, &told))?;
            let names: Vec<&str> = all.iter().map(|model| model.name.as_str()).collect();
            render::print(common, &json!({ "good": names }), || match names.is_empty() {
                true => "no models yet".into(),
                false => format!("good: {}", names.join(", ")),
            });
        }
        ModelCommand::Publish { model, stop } => {
            let model = models.publish(&models.find(&model)?, !stop)?;
            show(common, &models, &model, shared(common, &model).await?.as_deref());
        }
        ModelCommand::Add { file, name } => {
            let model = tokio::task::block_in_place(|| models.add(&file, name.as_deref(), &budget, &told))?;
            render::print(common, &json_of(&models, &model, None), || line(&model));
        }
    }
    Ok(())
}

/// Has the node that runs, if one does, share what is published now; the ticket of `model`.
async fn shared(common: &Common, model: &Model) -> Result<Option<String>> {
    let Some(answer) = node::call(&common.dir(), &ControlRequest::ShareModels).await? else { return Ok(None) };
    let list = answer["shared"].as_array().map(Vec::as_slice).unwrap_or_default();
    let one = list.iter().find(|one| one["hash"] == model.hash.to_string());
    Ok(one.and_then(|one| one["ticket"].as_str()).map(str::to_owned))
}

fn show(common: &Common, models: &Models, model: &Model, ticket: Option<&str>) {
    render::print(common, &json_of(models, model, ticket), || {
        let from = model.hub.as_ref().map_or_else(|| "a file or a peer".into(), |file| format!("hub {file}"));
        let given = match (ticket, model.published) {
            (Some(ticket), _) => format!("others fetch it with: talkoo model pull {ticket}"),
            (None, true) => {
                "published; its ticket is shown while this machine gives it away: run `talkoo up` or `talkoo serve`"
                    .into()
            }
            (None, false) => "not given to others; `talkoo model publish` does that".into(),
        };
        format!(
            "{}\nhash    {}\nsha256  {}\nfile    {}\nfrom    {from}\n{given}",
            line(model),
            model.hash,
            model.sha256,
            models.path(model).display()
        )
    });
}

fn json_of(models: &Models, model: &Model, ticket: Option<&str>) -> Value {
    let mut value = serde_json::to_value(model).unwrap_or_default();
    value["path"] = models.path(model).display().to_string().into();
    if let Some(ticket) = ticket {
        value["ticket"] = ticket.into();
    }
    value
}

fn line(model: &Model) -> String {
    let published = if model.published { "  published" } else { "" };
    format!("{}  {:>7} MB  {}{published}", model.hash.short(), model.bytes.div_ceil(1_000_000), model.name)
}

/// Lines of progress, one a second.
#[derive(Default)]
struct Lines(Mutex<Option<(Instant, u64)>>);

const LINE_EVERY: Duration = Duration::from_secs(1);

impl Lines {
    fn tell(&self, progress: Progress) {
        let mut last = self.0.lock().expect("nobody panics while holding it");
        let (at, _) = *last.get_or_insert_with(|| (Instant::now(), progress.done));
        if at.elapsed() < LINE_EVERY {
            return;
        }
        let before = last.replace((Instant::now(), progress.done)).map_or(0, |(_, done)| done);
        let rate = progress.done.saturating_sub(before) as f64 / 1e6 / at.elapsed().as_secs_f64();
        let what = match progress.what {
            Doing::Peers(1) => "from one peer".to_owned(),
            Doing::Peers(n) => format!("from {n} peers"),
            Doing::Hub => "from the hub".to_owned(),
            Doing::Checking => "checked".to_owned(),
        };
        eprintln!("{} of {} MB {what}, {rate:.0} MB/s", progress.done / 1_000_000, progress.of.div_ceil(1_000_000));
    }
}
