//! Quotas of keys while many answers are written at a time.

use crate::parrot::{CHAT, post};
use axum::body::{Body, to_bytes};
use axum::http::Request;
use gateway::{Answer, AnswerOrigin, Answers, Asked, Gateway, Key, Keys};
use market::{Ask, AskInput, Finish, ModelCard, Piece};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Reads a question at once, and ends its answer when it is told.
#[derive(Default)]
struct Slow(Mutex<Vec<UnboundedSender<Piece>>>);

impl Answers for Slow {
    fn models(&self) -> Vec<ModelCard> {
        let (name, hash) = ("slow".into(), base::Hash::default());
        vec![ModelCard { name, hash, context: 100, tools: false, since: 1, providers: 1 }]
    }

    fn ask(&self, _client: &[u8; 32], _name: &str, _ask: Ask) -> Asked<'_, Answer> {
        let (sender, pieces) = unbounded_channel();
        sender.send(Piece::Read { tokens: 5, cached: 0, echo: vec![] }).expect("a receiver");
        self.0.lock().expect("a lock").push(sender);
        Box::pin(async move { Ok(Answer { origin: AnswerOrigin::own(), pieces }) })
    }

    fn embed(&self, _model: &str, _texts: Vec<AskInput>) -> Asked<'_, (Vec<Vec<f32>>, u64)> {
        Box::pin(async { Ok((vec![vec![1.0]], 3)) })
    }

    fn tokenize(&self, _model: &str, _text: &str) -> Asked<'_, Vec<i32>> {
        Box::pin(async { Ok(vec![]) })
    }

    fn detokenize(&self, _model: &str, _ids: &[i32]) -> Asked<'_, String> {
        Box::pin(async { Ok(String::new()) })
    }
}

/// A key of a thousand tokens.
fn key() -> Key {
    let (name, hash, hint) = ("a".into(), Key::hash_of("tk-1"), "tk".into());
    Key { name, hash, hint, owner: false, models: vec![], per_minute: None, tokens: Some(1000), expires: None }
}

fn front(answers: Arc<Slow>, keys: Keys) -> Gateway {
    let keys = Arc::new(keys);
    Gateway { answers, keys, demand_keys: true, answer_tokens: 40, temperature: 1.0, panel: None }
}

#[test]
fn parallel_requests_do_not_pass_a_quota_together() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let slow = Arc::new(Slow::default());
        let router = front(slow.clone(), Keys::new(vec![key()])).router(true);
        let request = || -> Request<Body> {
            let question = json!([{ "role": "user", "content": "hi" }]);
            let mut request = post(CHAT, json!({ "model": "slow", "messages": question, "stream": true }).to_string());
            request.headers_mut().insert("authorization", "Bearer tk-1".parse().expect("a header"));
            request
        };
        let mut begun = Vec::new();
        for _ in 0..100 {
            let response = router.clone().oneshot(request()).await.expect("an answer");
            match response.status().as_u16() {
                200 => begun.push(response),
                other => assert_eq!(other, 429),
            }
        }
        // Each may read all of the context and write 40 tokens: seven of them may take 980.
        assert_eq!((begun.len(), slow.0.lock().expect("a lock").len()), (7, 7));
        for sender in slow.0.lock().expect("a lock").drain(..) {
            let end = Piece::End { finish: Ok(Finish::Stop), text: String::new(), tokens: 0 };
            sender.send(end).expect("a reader");
        }
        for response in begun {
            to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        }
        // They took five tokens each, so there is room again, for six.
        let mut again = Vec::new();
        for _ in 0..100 {
            again.push(router.clone().oneshot(request()).await.expect("an answer"));
        }
        assert_eq!(again.iter().filter(|response| response.status() == 200).count(), 6);
    });
}

#[test]
fn a_server_that_ends_saves_what_keys_have_used() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let disk = Arc::new(Mutex::new(BTreeMap::new()));
    runtime.block_on(async {
        let place = disk.clone();
        let save = Box::new(move |used: &BTreeMap<base::Hash, u64>| -> Result<(), String> {
            *place.lock().expect("a lock") = used.clone();
            Ok(())
        });
        let keys = Keys::new(vec![key()]).keeping(BTreeMap::from([(Key::hash_of("tk-1"), 4)]), save);
        let (stop, (sender, ready)) = (CancellationToken::new(), oneshot::channel());
        let listen = ([127, 0, 0, 1], 0).into();
        let serving = gateway::serve(front(Arc::default(), keys), listen, stop.clone(), move |address| {
            sender.send(address).expect("somebody waits");
        });
        let serving = tokio::spawn(serving);
        let mut stream = TcpStream::connect(ready.await.expect("an address")).await.expect("connected");
        let body = json!({ "model": "slow", "input": "hi" }).to_string();
        let head = "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
            content-type: application/json\r\nauthorization: Bearer tk-1\r\n";
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        stop.cancel();
        serving.await.expect("no panic").expect("it listened");
    });
    assert_eq!(*disk.lock().expect("a lock"), BTreeMap::from([(Key::hash_of("tk-1"), 7)]));
}
