//! Final blocks as they are shown: what each transaction does, in words and in figures.

use base::plain;
use base::{Hash, NodeId};
use chain::{Block, Tx};
use ledger::{Credits, WalletTx as Wallet};
use replica::Entry;
use serde::{Deserialize, Serialize};
use swarm::{RunId, WorkTx as Work};

/// A final block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockStatus {
    /// From 1.
    pub height: u64,
    /// Its name.
    pub hash: String,
    /// The one before.
    pub parent: String,
    /// Root of the state behind its parent.
    pub root: String,
    /// Unix milliseconds.
    pub time_ms: u64,
    /// Its epoch.
    pub epoch: u64,
    /// The validator that proposed it.
    pub by: String,
    /// Whether it has a certificate of its own, or is final as the ancestor of one that has.
    pub certified: bool,
    /// Its transactions.
    pub transactions: Vec<TxStatus>,
    /// What it did to accounts of this node's owner beside that: rounds that paid, bonds that were lost.
    #[serde(default)]
    pub happened: Vec<Deed>,
}

/// A transaction of a block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TxStatus {
    /// Its name.
    pub hash: String,
    /// Who signed it.
    pub by: String,
    /// What it does.
    #[serde(flatten)]
    pub deed: Deed,
}

/// What is done: in words, and in the figures that apply.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Deed {
    /// Its kind, in one word.
    pub kind: String,
    /// A sentence, of a transaction without the signer with whom it begins; keys stand as their first eight digits.
    pub text: String,
    /// The account that it goes to, or the key that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The account that it comes from, where that is not the signer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Micro-credits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount_micro: Option<u64>,
    /// The run, by its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The round of the run, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round: Option<u64>,
    /// Tokens that were trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Who gets how much, where it is for several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<TxPart>,
}

/// A part of an amount.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TxPart {
    /// Whose.
    pub to: String,
    /// Micro-credits.
    pub amount_micro: u64,
}

/// The name of a run, where the chain knows it still.
pub(super) type Named<'a> = &'a dyn Fn(&RunId) -> Option<String>;

impl BlockStatus {
    /// Of a block, `certified` or not; `own` are the histories of the owner's accounts at its height.
    pub(super) fn of(block: &Block, certified: bool, own: &[(NodeId, Vec<Entry>)], named: Named<'_>) -> Self {
        let entries = own.iter().flat_map(|(account, entries)| entries.iter().map(move |entry| (account, entry)));
        Self {
            height: block.header.height,
            hash: block.hash().to_string(),
            parent: block.header.parent.to_string(),
            root: block.header.root.to_string(),
            time_ms: block.header.time.0,
            epoch: block.header.epoch,
            by: block.header.by.to_string(),
            certified,
            transactions: block.txs.iter().map(|tx| TxStatus::of(tx, named)).collect(),
            happened: entries.filter_map(|(account, entry)| Deed::of_entry(account, entry, named)).collect(),
        }
    }
}

impl TxStatus {
    /// Of a transaction.
    pub(super) fn of(tx: &Tx, named: Named<'_>) -> Self {
        let mut deed = match tx {
            Tx::Work { tx } => Deed::of_work(&tx.by, &tx.value.tx, named),
            Tx::Wallet { tx } => Deed::of_wallet(&tx.value.tx, named),
            Tx::Vote { vote } => {
                let run = called(&vote.value.run, named);
                let text = match vote.value.share_permille {
                    0 => format!("takes back its vote for new credits of {run}"),
                    share => format!("votes for {share} of 1,000 parts of new credits for {run}"),
                };
                Deed { run: Some(vote.value.run.to_string()), ..Deed::says(text) }
            }
            Tx::Evidence { evidence } => {
                let epoch = evidence.value.epoch;
                Deed::says(format!("proves that a validator of epoch {epoch} signed two votes that exclude each other"))
            }
        };
        deed.kind = tx.kind().to_owned();
        Self { hash: tx.hash().to_string(), by: tx.by().to_string(), deed }
    }
}

impl Deed {
    fn says(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    fn moves(amount: Credits, text: impl Into<String>) -> Self {
        Self { amount_micro: Some(amount.0), ..Self::says(text) }
    }

    fn of_work(by: &NodeId, tx: &Work, named: Named<'_>) -> Self {
        let id = if let Work::Create { spec } = tx { Some(spec.id(by)) } else { tx.run() };
        let run = id.map(|id| called(&id, named)).unwrap_or_default();
        let deed = match tx {
            Work::Create { spec } => Self::says(format!(
                "begins the run {}: {} tokens for a model of {} parameters",
                quoted(&spec.name),
                grouped(spec.tokens),
                grouped(spec.params)
            )),
            Work::Join { .. } => Self::says(format!("joins {run}")),
            Work::Ready { version, .. } => {
                Self::says(format!("has version {version} of {run} and trains from the next round on"))
            }
            Work::Leave { .. } => Self::says(format!("leaves {run}")),
            Work::Rest { .. } => Self::says(format!("rests from {run}: its owner needs the machine")),
            Work::Commit { commit } => {
                let tokens = grouped(commit.tokens);
                let text = format!("commits its unit of round {} of {run}: {tokens} tokens", grouped(commit.round.0));
                Self { round: Some(commit.round.0), tokens: Some(commit.tokens), ..Self::says(text) }
            }
            Work::Attest { attest } => {
                let held: u32 = attest.held.iter().map(|byte| byte.count_ones()).sum();
                let updates = if held == 1 { "update" } else { "updates" };
                let round = grouped(attest.round.0);
                let text = format!("attests that it holds {held} {updates} of round {round} of {run}");
                Self { round: Some(attest.round.0), ..Self::says(text) }
            }
            Work::Dispute { claim } => {
                Self::says(format!("disputes version {} of {run}: its own apply gave other weights", claim.version))
            }
            Work::Verdict { verdict } => {
                let (version, whose) = (verdict.version, verdict.by.short());
                let text =
                    format!("says what its own apply gave for version {version} of {run}, which {whose} disputes");
                Self { to: Some(verdict.by.to_string()), ..Self::says(text) }
            }
            Work::Final { .. } => Self::says(format!("reports the last weights of {run}")),
        };
        Self { run: id.map(|id| id.to_string()), ..deed }
    }

    fn of_wallet(tx: &Wallet, named: Named<'_>) -> Self {
        let to = |key: &NodeId, deed: Self| Self { to: Some(key.to_string()), ..deed };
        match tx {
            Wallet::Transfer { to: whom, amount } => {
                to(whom, Self::moves(*amount, format!("sends {} to {}", credits(*amount), whom.short())))
            }
            Wallet::Bond { amount } => Self::moves(*amount, format!("puts {} into its bond", credits(*amount))),
            Wallet::Unbond { amount } => {
                let text = format!("takes {} out of its bond, free after the unbonding delay", credits(*amount));
                Self::moves(*amount, text)
            }
            Wallet::Fund { pot, amount } => {
                let text = format!("funds the run {} with {}", called(pot, named), credits(*amount));
                Self { run: Some(pot.to_string()), ..Self::moves(*amount, text) }
            }
            Wallet::Deposit { amount } => {
                Self::moves(*amount, format!("sets {} aside for providers", credits(*amount)))
            }
            Wallet::Withdraw { amount } => {
                Self::moves(*amount, format!("takes {} back that it had set aside for providers", credits(*amount)))
            }
            Wallet::Allot { parts } => Self::of_allotments(&parts.0),
            Wallet::Redeem { voucher } => {
                let (client, payee, total) = (voucher.by, voucher.value.payee, voucher.value.total);
                let said = format!("redeems a voucher of {} for {}", client.short(), payee.short());
                let text = format!("{said}: {} earned in all", credits(total));
                to(&payee, Self { from: Some(client.to_string()), ..Self::moves(total, text) })
            }
            Wallet::Close { payee } => {
                to(payee, Self::says(format!("asks back what is left of its allotment to {}", payee.short())))
            }
            Wallet::Release { client } => {
                to(client, Self::says(format!("gives back to {} what is left of its allotment", client.short())))
            }
            Wallet::Seat { claim } => {
                to(&claim.by, Self::says(format!("takes a seat for the validator key {}", claim.by.short())))
            }
            Wallet::Unseat { key } => {
                to(key, Self::says(format!("gives up the seat of the validator key {}", key.short())))
            }
        }
    }

    fn of_allotments(parts: &[(NodeId, Credits)]) -> Self {
        // The chain takes no sums that are none; what is shown was not checked for it.
        let sum = Credits(parts.iter().fold(0, |sum: u64, (_, amount)| sum.saturating_add(amount.0)));
        if let [(provider, _)] = parts {
            let text = format!("allots {} of what it set aside to {}", credits(sum), provider.short());
            return Self { to: Some(provider.to_string()), ..Self::moves(sum, text) };
        }
        let text = format!("allots {} of what it set aside to {} providers", credits(sum), parts.len());
        let part = |(to, amount): &(NodeId, Credits)| TxPart { to: to.to_string(), amount_micro: amount.0 };
        Self { parts: parts.iter().map(part).collect(), ..Self::moves(sum, text) }
    }

    /// What a block did to an account beside its transactions, by the account's history.
    fn of_entry(account: &NodeId, entry: &Entry, named: Named<'_>) -> Option<Self> {
        let whose = account.short();
        let deed = match entry.what.as_str() {
            what @ ("paid" | "issued") => {
                let run = match entry.other.parse::<Hash>() {
                    Ok(id) => called(&id, named),
                    Err(_) => quoted(&entry.other),
                };
                let round = entry.round.map_or_else(|| "A round".into(), |round| format!("Round {}", grouped(round)));
                let (amount, source) =
                    (Credits(entry.in_micro), if what == "paid" { "its budget" } else { "new money" });
                let text = format!("{round} of {run} closed and paid {} of {source} to {whose}", credits(amount));
                Self { run: Some(entry.other.clone()), round: entry.round, ..Self::moves(amount, text) }
            }
            "slashed" => {
                let amount = Credits(entry.out_micro);
                Self::moves(amount, format!("The bond of a seat of {whose} is lost: {}", credits(amount)))
            }
            _ => return None,
        };
        Some(Self { kind: entry.what.clone(), to: Some(account.to_string()), ..deed })
    }
}

/// What a run is called: by its name, or the beginning of its id.
fn called(run: &RunId, named: Named<'_>) -> String {
    named(run).map_or_else(|| run.short(), |name| quoted(&name))
}

/// A name that others chose, so that nothing of it is taken for the sentence.
fn quoted(name: &str) -> String {
    format!("“{}”", plain(name).replace(['“', '”'], "\""))
}

fn credits(amount: Credits) -> String {
    format!("{amount} {}", if amount == Credits::whole(1) { "credit" } else { "credits" })
}

fn grouped(n: u64) -> String {
    base::grouped_by(n, ',')
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{Keypair, Round, Signed};
    use chain::{VOTE_DOMAIN, Vote};
    use ledger::{Allotments, SEAT_DOMAIN, SeatClaim, VOUCHER_DOMAIN, Voucher};
    use serde_json::json;
    use swarm::{Attest, Commit};

    const RUN: RunId = Hash([0xb0; 32]);
    const OTHER: RunId = Hash([0xc1; 32]);

    fn key(n: u8) -> Keypair {
        Keypair::from_secret([n; 32])
    }

    /// A name with what no terminal is to obey.
    fn named(run: &RunId) -> Option<String> {
        (*run == RUN).then(|| "ba\u{1b}r\u{202e}d”".into())
    }

    fn wallet(tx: Wallet) -> TxStatus {
        let value = ledger::WalletEnvelope { chain: Hash::default(), nonce: 0, tx };
        TxStatus::of(&Tx::Wallet { tx: Signed::new(ledger::DOMAIN, &key(1), value) }, &named)
    }

    fn work(tx: Work) -> TxStatus {
        let value = swarm::WorkEnvelope { chain: Hash::default(), seq: 1, work: 0, tx };
        TxStatus::of(&Tx::Work { tx: Signed::new(swarm::DOMAIN, &key(1), value) }, &named)
    }

    /// Compares what is shown, but for hash and signer.
    #[track_caller]
    fn check(tx: TxStatus, expect: serde_json::Value) {
        assert_eq!(tx.by, key(1).id().to_string());
        let mut shown = serde_json::to_value(&tx).expect("JSON");
        assert_eq!(serde_json::from_value::<TxStatus>(shown.clone()).expect("the same"), tx);
        let fields = shown.as_object_mut().expect("an object");
        fields.shift_remove("hash");
        fields.shift_remove("by");
        assert_eq!(shown, expect);
    }

    #[test]
    fn wallet_transactions_say_how_much_goes_where() {
        let (friend, other) = (key(2).id(), key(3).id());
        let (f, o) = (friend.short(), other.short());
        let three = Credits::whole(3);
        check(
            wallet(Wallet::Transfer { to: friend, amount: three }),
            json!({
                "kind": "transfer", "text": format!("sends 3 credits to {f}"), "to": friend, "amount_micro": 3_000_000,
            }),
        );
        check(
            wallet(Wallet::Fund { pot: RUN, amount: Credits::whole(1) }),
            json!({ "kind": "fund", "text": "funds the run “bard\"” with 1 credit", "amount_micro": 1_000_000, "run": RUN }),
        );
        check(
            wallet(Wallet::Bond { amount: Credits(420_000) }),
            json!({ "kind": "bond", "text": "puts 0.42 credits into its bond", "amount_micro": 420_000 }),
        );
        let one = vec![(friend, three)];
        check(
            wallet(Wallet::Allot { parts: Allotments(one) }),
            json!({
                "kind": "allot", "text": format!("allots 3 credits of what it set aside to {f}"), "to": friend,
                "amount_micro": 3_000_000,
            }),
        );
        let two = vec![(friend, three), (other, Credits(500_000))];
        check(
            wallet(Wallet::Allot { parts: Allotments(two) }),
            json!({
                "kind": "allot", "text": "allots 3.5 credits of what it set aside to 2 providers", "amount_micro": 3_500_000,
                "parts": [{ "to": friend, "amount_micro": 3_000_000 }, { "to": other, "amount_micro": 500_000 }],
            }),
        );
        let voucher = Voucher { chain: Hash::default(), payee: other, serial: 1, total: three };
        check(
            wallet(Wallet::Redeem { voucher: Signed::new(VOUCHER_DOMAIN, &key(2), voucher) }),
            json!({
                "kind": "redeem", "text": format!("redeems a voucher of {f} for {o}: 3 credits earned in all"),
                "to": other, "from": friend, "amount_micro": 3_000_000,
            }),
        );
        let claim = SeatClaim { chain: Hash::default(), owner: friend, node: friend };
        check(
            wallet(Wallet::Seat { claim: Signed::new(SEAT_DOMAIN, &key(3), claim) }),
            json!({ "kind": "seat", "text": format!("takes a seat for the validator key {o}"), "to": other }),
        );
    }

    #[test]
    fn work_says_which_round_of_which_run() {
        let zero = Hash::default();
        let commit = Commit {
            run: RUN,
            round: Round(12),
            root: zero,
            class: zero,
            tokens: 18_432,
            steps: 1,
            update: zero,
            norm_sq_bits: 0,
            size: 0,
            state: zero,
            state_next: zero,
            trace: zero,
            loss_micro: 0,
        };
        check(
            work(Work::Commit { commit }),
            json!({
                "kind": "commit", "text": "commits its unit of round 12 of “bard\"”: 18,432 tokens", "run": RUN, "round": 12,
                "tokens": 18_432,
            }),
        );
        let attest = Attest { run: OTHER, round: Round(3), root: zero, held: vec![0b101, 1] };
        check(
            work(Work::Attest { attest }),
            json!({
                "kind": "attest", "text": "attests that it holds 3 updates of round 3 of c1c1c1c1", "run": OTHER, "round": 3,
            }),
        );
        check(work(Work::Leave { run: RUN }), json!({ "kind": "leave", "text": "leaves “bard\"”", "run": RUN }));
        let vote = Vote { chain: zero, seq: 1, run: RUN, share_permille: 500 };
        let vote = Tx::Vote { vote: Signed::new(VOTE_DOMAIN, &key(1), vote) };
        let text = "votes for 500 of 1,000 parts of new credits for “bard\"”";
        check(TxStatus::of(&vote, &named), json!({ "kind": "vote", "text": text, "run": RUN }));
    }

    #[test]
    fn payments_of_closed_rounds_are_shown_and_nothing_twice() {
        let account = key(1).id();
        let entry = Entry { what: "paid".into(), in_micro: 420_000, other: RUN.to_string(), ..Entry::default() };
        let said = |entry: &Entry| Deed::of_entry(&account, entry, &named).map(|deed| deed.text);
        let paid = format!("closed and paid 0.42 credits of its budget to {}", account.short());
        assert_eq!(said(&entry), Some(format!("A round of “bard\"” {paid}")), "written down before rounds were");
        let entry = Entry { round: Some(12), ..entry };
        assert_eq!(said(&entry), Some(format!("Round 12 of “bard\"” {paid}")));
        let issued = Deed::of_entry(&account, &Entry { what: "issued".into(), ..entry.clone() }, &named);
        let issued = issued.expect("it is shown");
        assert!(issued.text.contains("0.42 credits of new money"), "{}", issued.text);
        assert_eq!((issued.amount_micro, issued.round), (Some(420_000), Some(12)));
        assert_eq!((issued.run, issued.to), (Some(RUN.to_string()), Some(account.to_string())));
        // These are transactions, which the block names.
        for what in ["sent", "received", "bond", "redeemed to 3"] {
            assert_eq!(said(&Entry { what: what.into(), ..entry.clone() }), None, "{what}");
        }
    }
}
