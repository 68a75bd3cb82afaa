//! What this node does with questions where it is short of connections or of memory.

#![cfg(feature = "serve")]

use base::{Hash, Keypair, NodeId};
use ledger::Credits;
use market::{AnswerFormat, Ask, AskInput, FRAME_MAX, Frame, Piece, Price, Reason, Request, Sampling, SessionEvent};
use node::{Node, NodeConfig};
use owner::OwnerSignal;
use serving::testing::{self, Engine, EngineConfig};
use serving::{Local, OfferConfig, Served, Trade, TradeConfig};
use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use trainer::Limits;

/// More connections than a pool has room for.
const DIALS: u16 = 300;
/// Dials to a silent socket last longer.
const WITHIN: Duration = Duration::from_secs(9);

fn key(i: u16) -> NodeId {
    let mut secret = [9; 32];
    secret[..2].copy_from_slice(&i.to_le_bytes());
    Keypair::from_secret(secret).id()
}

async fn start(dir: &Path, local: Local, config: TradeConfig) -> (Arc<Node>, Arc<Trade>) {
    let node = NodeConfig {
        dir: dir.to_owned(),
        bind: ([127, 0, 0, 1], 0).into(),
        mdns: false,
        relays: vec![],
        rates: (0, 0),
        minded: false,
        limits: Limits { threads: 1, duty_percent: 100 },
        device: "cpu".into(),
        eval_tokens: 0,
    };
    let node = Node::start(node).await.expect("a node starts");
    let trade = node.trade(local, config).await.expect("it trades");
    (node, trade)
}

/// A model of random weights that is called `own`.
fn own(dir: &Path) -> Local {
    let path = dir.join("own.gguf");
    if !path.exists() {
        let config = model::ModelConfig::preset("nano", 2048, 256).expect("a preset");
        let layout = model::Layout::new(&config, &model::Part::whole(&config));
        let theta = model::init(&layout, config.num_hidden_layers, 5);
        let tokenizer = std::fs::read("../../corpus/tokenizer.json").expect("the shipped tokenizer");
        let (card, kind) = (model::ExportCard::default(), model::GgufType::Q8_0);
        model::export_gguf(&path, &config, &theta, &tokenizer, 0, &card, kind).expect("written");
    }
    let config = EngineConfig { path, hash: None, threads: 1, slots: 2, context: 0, memory: 0, vram: 0 };
    Local::new(vec![Served::new(Engine::load(config).expect("loaded"))])
}

fn question(model: &str) -> Ask {
    Ask {
        model: model.into(),
        input: AskInput::Text("a question".into()),
        max_tokens: Some(1),
        sampling: Sampling::default(),
        stop: Vec::new(),
        logprobs: None,
        echo: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_of_our_own_accuses_no_provider() {
    let dir = tempfile::tempdir().expect("a folder");
    let (node, trade) = start(dir.path(), Local::default(), TradeConfig::default()).await;
    // A socket that answers nobody: dials to it take their place until they give up.
    let silent = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let socket = silent.local_addr().expect("an address");
    let mut dials = Vec::new();
    for i in 0..DIALS {
        let net = testing::net(&trade);
        net.know(&net::Address { node: key(i), sockets: vec![socket], relay: None });
        let mut dial = Box::pin(async move { net.talk(key(i), FRAME_MAX).await.is_ok() });
        // Begun here, so that its place is taken before the question comes.
        std::future::poll_fn(|context| Poll::Ready(dial.as_mut().poll(context).is_ready())).await;
        dials.push(dial);
        tokio::task::yield_now().await;
    }
    let (events, mut happened) = mpsc::channel(8);
    let (begun, provider) = (Instant::now(), key(DIALS));
    loop {
        let request = Request::new(Hash::default(), Hash::default(), Hash::default(), question("a model"));
        let _attempt = testing::open(&trade, 1, provider, request, &events);
        match happened.recv().await.expect("an event") {
            SessionEvent::NoRoom(1) => break,
            // Not full yet, and there is no way to a key without an address.
            SessionEvent::Unreachable(1) => assert!(begun.elapsed() < WITHIN, "the pool is never full"),
            other => panic!("a provider that was never reached is accused: {other:?}"),
        }
    }
    drop(dials);
    trade.close().await;
    node.close().await.expect("it ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_for_an_unloaded_model_leaves_no_machine() {
    let stage = tempfile::tempdir().expect("a folder");
    let offer = OfferConfig { public: true, ..OfferConfig::default() };
    let serves = TradeConfig { offer, ..TradeConfig::default() };
    let (peer, offers) = start(&stage.path().join("peer"), own(stage.path()), serves).await;
    let (node, trade) = start(&stage.path().join("node"), own(stage.path()), TradeConfig::default()).await;
    trade.join(&offers.ticket(offers.networks()[0])).expect("joined");
    assert!(trade.wait_for(Some("net/own"), Duration::from_secs(60)).await, "the peer offers the same name");
    let heard =
        || offers.served().into_iter().filter(|(name, _)| !name.starts_with("offer_")).map(|(_, n)| n).sum::<u64>();
    let ask = async |model: &str| {
        let mut pieces = trade.ask(&[1; 32], "a question", question(model)).await?;
        while let Some(piece) = pieces.recv().await {
            if let Piece::End { finish, .. } = piece {
                return finish.map(|_| ());
            }
        }
        Err(Reason::Failed("it broke off".into()))
    };
    assert_eq!(ask("own").await, Ok(()), "it is loaded, and answers here");
    trade.told(OwnerSignal::Sheds);
    assert!(matches!(ask("own").await, Err(Reason::Away(_))));
    assert_eq!((trade.unloaded(), heard()), (vec!["own".to_owned()], 0), "nothing left the machine");
    assert_eq!(ask("net/own").await, Ok(()), "under its other name it does");
    for (node, trade) in [(node, trade.clone()), (peer, offers.clone())] {
        trade.close().await;
        node.close().await.expect("it ends");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_says_that_it_heard_a_question_before_it_looks_at_it() {
    let stage = tempfile::tempdir().expect("a folder");
    let (node, trade) = start(&stage.path().join("node"), Local::default(), TradeConfig::default()).await;
    let (out, mut frames) = mpsc::channel(8);
    let (_says, said) = mpsc::channel(1);
    // Of a model that it does not have.
    let request = Request::new(Hash::default(), Hash::default(), Hash::default(), question("a model"));
    testing::answer(&trade, (node.id(), false), request, out, said).await;
    assert_eq!(frames.recv().await, Some(Frame::Alive {}));
    assert!(matches!(frames.recv().await, Some(Frame::Refused { .. })));
    trade.close().await;
    node.close().await.expect("it ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_each_time_has_paid_for_what_came() {
    const WITHIN: Duration = Duration::from_secs(30);
    let stage = tempfile::tempdir().expect("a folder");
    // What is on its way when somebody hangs up is half a chunk and more on this fast model, and most of the price.
    let price = market::Price { input: Credits::whole(1), output: Credits::whole(8) };
    let offer = OfferConfig { public: true, price, ..OfferConfig::default() };
    let serves = TradeConfig { offer, ..TradeConfig::default() };
    let (peer, offers) = start(&stage.path().join("peer"), own(stage.path()), serves).await;
    let asks = TradeConfig { price, budget: Credits::whole(100), ..TradeConfig::default() };
    let (node, trade) = start(&stage.path().join("node"), Local::default(), asks).await;
    let chain = offers.networks()[0];
    trade.join(&offers.ticket(chain)).expect("joined");
    assert!(trade.wait_for(Some("net/own"), WITHIN).await, "an offer came");
    let tx = ledger::WalletTx::Transfer { to: node.id(), amount: Credits::whole(200) };
    peer.spend(None, tx).await.expect("given");
    let (network, mut look) = (chain.to_string(), tokio::time::interval(Duration::from_millis(20)));
    let given = async {
        while node.account(Some(&network), &node.id()).is_ok_and(|account| account.balance_micro == 0) {
            look.tick().await;
        }
    };
    tokio::time::timeout(WITHIN, given).await.expect("the client's chain came after");
    for i in 0..40 {
        // Every other one is written to its end before its client hears that somebody hung up.
        let ask = Ask { max_tokens: Some(if i % 2 == 0 { 200 } else { 20 }), ..question("net/own") };
        let asked = trade.ask(&[1; 32], "hung up", ask).await;
        let mut pieces = asked.unwrap_or_else(|reason| panic!("after {i} answers: {reason}"));
        let mut left = 1 + i % 12;
        while let Some(piece) = pieces.recv().await {
            left -= usize::from(matches!(piece, Piece::Token(_)));
            if let Piece::End { finish, .. } = &piece {
                assert!(finish.is_ok(), "answer {i}: {finish:?}");
            }
            if left == 0 {
                break;
            }
        }
    }
    let settled = async {
        let till = || testing::till(&offers, &chain, &node.id());
        while (till().owed(), till().lost()) != (Credits::ZERO, Credits::ZERO) {
            look.tick().await;
        }
    };
    let settled = tokio::time::timeout(WITHIN, settled).await;
    assert!(settled.is_ok(), "not all of it is paid: {:?}", testing::till(&offers, &chain, &node.id()));
    for (node, trade) in [(node, trade.clone()), (peer, offers.clone())] {
        trade.close().await;
        node.close().await.expect("it ends");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_allotment_comes_back_to_the_budget_once() {
    let stage = tempfile::tempdir().expect("a folder");
    let (node, trade) = start(&stage.path().join("node"), Local::default(), TradeConfig::default()).await;
    testing::set_aside(&trade, Credits(100));
    let back = |serial| testing::give_back(&trade, &key(1), serial, Credits(30));
    assert_eq!([back(1), back(1)], [(true, Credits(70)), (false, Credits(70))]);
    // The next one to the same provider is another.
    assert_eq!([back(2), back(2)], [(true, Credits(40)), (false, Credits(40))]);
    trade.close().await;
    node.close().await.expect("it ends");
}

/// What a provider says beside that it lives.
async fn first(frames: &mut mpsc::Receiver<Frame>) -> Option<Frame> {
    loop {
        match frames.recv().await {
            Some(Frame::Alive {}) => {}
            other => return other,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_without_a_place_is_refused_before_its_question_is_read() {
    let stage = tempfile::tempdir().expect("a folder");
    let price = Price { input: Credits::whole(1), output: Credits::whole(2) };
    let sells =
        TradeConfig { offer: OfferConfig { public: true, price, accept: Vec::new() }, ..TradeConfig::default() };
    let (node, trade) = start(&stage.path().join("node"), own(stage.path()), sells).await;
    let (home, model) = (trade.networks()[0], testing::models(&trade)[0]);
    let ask = || {
        let request = Request { chain: home, price, ..Request::new(home, model, Hash::default(), question("own")) };
        let ((out, frames), (says, said)) = (mpsc::channel(8), mpsc::channel(8));
        let trade = trade.clone();
        let answer = tokio::spawn(async move { testing::answer(&trade, (key(1), false), request, out, said).await });
        (answer, frames, says)
    };
    let mut waiting = Vec::new();
    // As many as may wait to pay, none of which does.
    for _ in 0..4 {
        let (answer, mut frames, says) = ask();
        assert!(matches!(first(&mut frames).await, Some(Frame::Taken { .. })));
        waiting.push((answer, frames, says));
    }
    let (answer, mut frames, _says) = ask();
    assert!(matches!(first(&mut frames).await, Some(Frame::Refused { reason: Reason::Busy(_) })));
    answer.await.expect("it ends");
    for (answer, frames, says) in waiting {
        drop((frames, says));
        answer.await.expect("it ends");
    }
    trade.close().await;
    node.close().await.expect("it ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_whose_shape_is_not_made_yet_holds_no_place() {
    let stage = tempfile::tempdir().expect("a folder");
    let price = Price { input: Credits::whole(1), output: Credits::whole(2) };
    for price in [Price::default(), price] {
        let sells =
            TradeConfig { offer: OfferConfig { public: true, price, accept: Vec::new() }, ..TradeConfig::default() };
        let dir = stage.path().join(price.is_free().to_string());
        let (node, trade) = start(&dir, own(stage.path()), sells).await;
        let (home, model) = (trade.networks()[0], testing::models(&trade)[0]);
        let ask = |by: u16, format: AnswerFormat| {
            let sampling = Sampling { format, ..Sampling::default() };
            let ask = Ask { sampling, ..question("own") };
            let request = Request { chain: home, price, ..Request::new(home, model, Hash::default(), ask) };
            let ((out, frames), (says, said)) = (mpsc::channel(64), mpsc::channel(8));
            let trade = trade.clone();
            let answer =
                tokio::spawn(async move { testing::answer(&trade, (key(by), true), request, out, said).await });
            (answer, frames, says)
        };
        // Somebody's grammars take their time.
        let busy = testing::shaping(&trade).acquire_many_owned(2).await.expect("it runs");
        let mut shaped = Vec::new();
        for by in 0..12 {
            let (answer, mut frames, says) = ask(by, AnswerFormat::Schema(r#"{"type":"boolean"}"#.into()));
            // It is heard, and waits or is refused.
            assert_eq!(frames.recv().await, Some(Frame::Alive {}));
            shaped.push((answer, frames, says));
        }
        let (answer, mut frames, _says) = ask(99, AnswerFormat::Free);
        assert!(matches!(first(&mut frames).await, Some(Frame::Taken { .. })), "{price:?}");
        if price.is_free() {
            let mut ended = false;
            while let Some(frame) = frames.recv().await {
                ended |= matches!(frame, Frame::End { .. });
            }
            assert!(ended, "it is answered while twelve shapes wait");
            answer.await.expect("it ends");
        }
        drop(busy);
        for (answer, frames, says) in shaped {
            drop((frames, says));
            answer.await.expect("it ends");
        }
        drop((frames, _says));
        trade.close().await;
        node.close().await.expect("it ends");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credits_of_a_strangers_network_of_one_buy_no_answer() {
    let stage = tempfile::tempdir().expect("a folder");
    let price = Price { input: Credits::whole(1), output: Credits::whole(2) };
    let sells =
        TradeConfig { offer: OfferConfig { public: true, price, accept: Vec::new() }, ..TradeConfig::default() };
    let (node, trade) = start(&stage.path().join("node"), own(stage.path()), sells).await;
    let (mint, minting) = start(&stage.path().join("mint"), Local::default(), TradeConfig::default()).await;
    let (home, theirs) = (trade.networks()[0], minting.networks()[0]);
    trade.join(&minting.ticket(theirs)).expect("joined");
    assert!(!testing::sells(&trade, &theirs) && testing::sells(&trade, &home), "it is sold at home only");
    let model = testing::models(&trade)[0];
    let request = Request { chain: theirs, price, ..Request::new(home, model, Hash::default(), question("own")) };
    let (out, mut frames) = mpsc::channel(8);
    let (_says, said) = mpsc::channel(8);
    testing::answer(&trade, (mint.id(), false), request, out, said).await;
    assert_eq!(frames.recv().await, Some(Frame::Alive {}));
    assert_eq!(frames.recv().await, Some(Frame::Refused { reason: Reason::Price }));
    for (node, trade) in [(node, trade), (mint, minting)] {
        trade.close().await;
        node.close().await.expect("it ends");
    }
}
