//! Every decoder of a peer's bytes, on random and on damaged input, for a bounded time each
//! (`FUZZ_SECONDS`, default 0.3): it may refuse, it may not panic, and what it takes it writes back.

use base::{ChunkTree, Hash, Keypair, Millis, Rng, Round, Signed, Wire};
use model::update::Format;
use model::{Layout, ModelConfig, Part, Private, Weights, verify_update};
use std::time::{Duration, Instant};
use swarm::{Attest, Claim, Commit, DOMAIN, DisputeVerdict, Memory, SignedWorkTx, WorkBlock, WorkEnvelope, WorkTx};

fn seconds() -> Duration {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|s| s.parse::<f64>().ok()).unwrap_or(0.3);
    Duration::from_secs_f64(seconds)
}

/// Feeds `take` random bytes and damaged copies of `samples`.
fn fuzz(name: &str, samples: &[Vec<u8>], mut take: impl FnMut(&[u8])) {
    let mut rng = Rng::new(Hash::of("fuzz", name.as_bytes()).seed());
    let (begun, mut inputs) = (Instant::now(), 0u64);
    while begun.elapsed() < seconds() {
        let mut bytes = if rng.chance(1, 4) {
            (0..rng.below(300)).map(|_| rng.next_u64() as u8).collect()
        } else {
            samples[rng.below(samples.len() as u64) as usize].clone()
        };
        for _ in 0..rng.below(6) {
            damage(&mut bytes, &mut rng);
        }
        take(&bytes);
        inputs += 1;
    }
    println!("fuzz {name}: {inputs} inputs");
    assert!(inputs > 0);
}

fn damage(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.below(bytes.len() as u64 + 1) as usize;
    match rng.below(5) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, rng.next_u64() as u8),
        2 if at + 4 <= bytes.len() => bytes[at..at + 4].copy_from_slice(&(rng.next_u64() as u32).to_le_bytes()),
        3 if at + 4 <= bytes.len() => bytes[at..at + 4].fill(0xff),
        _ if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
        _ => {}
    }
}

/// A canonical encoding: what is taken is written back to the same bytes.
fn canonical<T: Wire>(name: &str, samples: &[Vec<u8>]) {
    fuzz(name, samples, |bytes| {
        if let Ok(value) = T::from_bytes(bytes) {
            assert_eq!(value.to_bytes(), bytes, "{name}");
        }
    });
}

fn commit() -> Commit {
    Commit {
        run: Hash::of("a", b""),
        round: Round(3),
        root: Hash::of("b", b""),
        class: Hash::default(),
        tokens: 512,
        steps: 1,
        update: Hash::of("c", b""),
        norm_sq_bits: 1.0f64.to_bits(),
        size: 1000,
        state: Hash::default(),
        state_next: Hash::of("d", b""),
        trace: Hash::of("e", b""),
        loss_micro: 7_000_000,
    }
}

fn txs() -> Vec<SignedWorkTx> {
    let key = Keypair::from_secret([1; 32]);
    let run = Hash::of("a", b"");
    let attest = Attest { run, round: Round(3), root: run, held: vec![5] };
    let all = [
        WorkTx::Join { run, class: run },
        WorkTx::Ready { run, version: 2, root: run },
        WorkTx::Leave { run },
        WorkTx::Commit { commit: commit() },
        WorkTx::Attest { attest },
        WorkTx::Dispute { claim: Claim { run, version: 4, root: run, own: Hash::of("f", b""), chunk: 1, hash: run } },
        WorkTx::Verdict { verdict: DisputeVerdict { run, by: key.id(), version: 4, root: run, hash: run } },
        WorkTx::Final { run, root: run },
    ];
    let sign = |(seq, tx)| Signed::new(DOMAIN, &key, WorkEnvelope { chain: run, seq, work: 0, tx });
    (0..).zip(all).map(sign).collect()
}

#[test]
fn transactions_blocks_and_memories() {
    let signed: Vec<Vec<u8>> = txs().iter().map(Wire::to_bytes).collect();
    canonical::<SignedWorkTx>("transaction", &signed);
    canonical::<WorkBlock>("block", &[WorkBlock { height: 1, time: Millis(2), txs: txs() }.to_bytes()]);
    let memory = Memory { state: Hash::default(), said: Some(commit()), unsettled: vec![(Round(1), Hash::default())] };
    canonical::<Memory>("memory", &[memory.to_bytes()]);
}

#[test]
fn chains_packets_and_networks() {
    let key = Keypair::from_secret([1; 32]);
    let chain = Hash::of("chain", b"");
    let transfer = ledger::WalletTx::Transfer { to: key.id(), amount: ledger::Credits(5) };
    let wallet = Signed::new(ledger::DOMAIN, &key, ledger::WalletEnvelope { chain, nonce: 1, tx: transfer });
    let vote = chain::Vote { chain, seq: 1, run: chain, share_permille: 5 };
    let all = [chain::Tx::Wallet { tx: wallet }, chain::Tx::Vote { vote: Signed::new(chain::VOTE_DOMAIN, &key, vote) }];
    let work = txs().into_iter().map(|tx| chain::Tx::Work { tx });
    let all: Vec<chain::Tx> = all.into_iter().chain(work).collect();
    canonical::<chain::Tx>("chain transaction", &all.iter().map(Wire::to_bytes).collect::<Vec<_>>());
    let (by, set) = (key.id(), vec![key.id()]);
    let header = chain::Header {
        height: 3,
        epoch: 1,
        set: chain,
        parent: chain,
        time: Millis(9),
        root: chain,
        by,
        missing: set.clone(),
        next: Some(set),
        txs: chain,
    };
    let block = chain::Block::new(header, all);
    canonical::<chain::Block>("chain block", &[block.to_bytes()]);
    let step = chain::Step { header: block.header.clone(), certificate: vec![7; 90] };
    let root = chain::RootProof { between: vec![block.header.clone()], steps: vec![step] };
    let packets = [
        replica::Packet::Engine { channel: replica::Channel::Votes, epoch: 0, bytes: vec![1, 2, 3] },
        replica::Packet::Block(block.to_bytes()),
        replica::Packet::Ask(chain),
        replica::Packet::Tx(vec![4; 40]),
        replica::Packet::End(4),
        replica::Packet::Final(vec![5; 90]),
    ];
    canonical::<replica::Packet>("packet", &packets.map(|packet| packet.to_bytes()));
    let address = net::Address { node: key.id(), sockets: vec!["127.0.0.1:1".parse().expect("socket")], relay: None };
    let seats =
        (0..4).map(|i| replica::SeatOffer { key: Keypair::from_secret([i; 32]).id(), address: address.clone() });
    let network = replica::NetworkFile::new("x", seats.collect()).expect("four seats");
    canonical::<replica::NetworkFile>("network", &[network.to_bytes()]);
    let mut state = chain::State::new(&network.genesis);
    let mut proof = state.prove(&key.id());
    proof.root = root.clone();
    canonical::<chain::AccountProof>("account proof", &[proof.to_bytes()]);
    let genesis = network.genesis.clone();
    let anchor = Some((block.header.clone(), vec![key.id()]));
    let snapshot = chain::Snapshot { genesis: genesis.clone(), anchor, state: state.to_snapshot(), proof: root };
    canonical::<chain::Snapshot>("snapshot", &[snapshot.to_bytes()]);
    fuzz("state", &[state.to_snapshot()], |bytes| {
        if let Ok(mut state) = chain::State::from_snapshot(&genesis, bytes) {
            state.root();
        }
    });
    let set = chain::first_set(&genesis);
    fuzz("certificate", &[vec![7; 90]], |bytes| {
        let _ = chain::certified(&chain, 0, &set, bytes);
    });
}

#[test]
fn trees_tickets_and_manifests() {
    canonical::<ChunkTree>("chunk tree", &[ChunkTree::of(&vec![1; 3 << 20]).to_bytes()]);
    let address = net::Address {
        node: base::NodeId([1; 32]),
        sockets: vec!["127.0.0.1:1".parse().expect("socket")],
        relay: None,
    };
    let ticket = net::Ticket { chain: Hash::default(), run: Hash::default(), anchor: None, peers: vec![address] };
    canonical::<net::Ticket>("ticket", &[ticket.to_bytes()]);
    fuzz("ticket text", &[ticket.to_string().into_bytes()], |bytes| {
        let _ = String::from_utf8_lossy(bytes).parse::<net::Ticket>();
    });
    let json = br#"{"version":1,"name":"x","licence":"y","tokenizer":"00","vocab":9,"end_token":0,"id_bytes":2,"train":[],"heldout":[],"documents":[1,0]}"#;
    fuzz("manifest", &[json.to_vec()], |bytes| {
        let _ = data::Manifest::from_json(bytes);
    });
    fuzz("config.json", &[ModelConfig::preset("nano", 64, 64).expect("nano").to_json(0)], |bytes| {
        let _ = ModelConfig::from_json(bytes);
    });
}

#[test]
fn updates_states_and_weights() {
    let config = ModelConfig { num_hidden_layers: 1, ..ModelConfig::preset("nano", 64, 64).expect("nano") };
    let layout = Layout::new(&config, &Part::whole(&config));
    let mut rng = Rng::new(1);
    let delta: Vec<f32> = (0..layout.len).map(|_| rng.normal()).collect();
    for (sparsity, bits) in [(0, 8), (0, 2), (4, 2), (6, 1), (2, 8)] {
        let format = Format::new(sparsity, bits).expect("known");
        let mut e = vec![0; layout.len];
        model::update::fold(&mut e, 1.0, &delta).expect("finite");
        let good = model::update::encode(&layout, &mut e, format);
        fuzz(&format!("update {sparsity} {bits}"), &[good.bytes], |bytes| {
            let _ = verify_update(&layout, bytes, format, good.norm_sq);
        });
    }
    fuzz("private state", &[Private::zero(&layout).to_bytes()], |bytes| {
        let _ = Private::from_bytes(&layout, bytes);
    });
    fuzz("weights", &[Weights::init(&layout, &config, 1, false).bytes().into_owned()], |bytes| {
        let _ = Weights::from_bytes(&layout, false, bytes);
    });
}
