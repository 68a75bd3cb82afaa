//! Nodes that keep a chain for others, and hold them still.

use base::{Hash, NodeId, Reject};
use bytes::Bytes;
use ledger::Credits;
use net::BoxFuture;
use node::{Node, NodeConfig};
use replica::{NetworkFile, SpendError};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use trainer::Limits;

fn config(dir: &Path, bind: SocketAddr) -> NodeConfig {
    NodeConfig {
        dir: dir.to_owned(),
        bind,
        mdns: false,
        relays: vec![],
        rates: (0, 0),
        minded: false,
        limits: Limits { threads: 1, duty_percent: 100 },
        device: "cpu".into(),
        eval_tokens: 0,
    }
}

/// A keeper that gives no block, and answers each transaction, which it throws away.
struct Still;

impl net::LogService for Still {
    fn submit(&self, _: &Hash, _: NodeId, _: Vec<u8>) -> Result<(), Reject> {
        Err(Reject::TooMany)
    }
    fn block(&self, _: Hash, _: u64) -> BoxFuture<'_, Option<(Bytes, Bytes)>> {
        Box::pin(std::future::pending())
    }
    fn snapshot(&self, _: Hash, _: Option<u64>) -> BoxFuture<'_, Option<(u64, Bytes)>> {
        Box::pin(async { None })
    }
}

/// The follower begins with the one that holds it still, for the validator comes up later. Its transaction reaches the
/// validator all the same, and so do the blocks that answer it.
#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_gives_no_block_neither_holds_a_follower_nor_swallows_its_transactions() {
    let stage = tempfile::tempdir().expect("a folder");
    let (validator, follower) = (stage.path().join("validator"), stage.path().join("follower"));
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let port = UdpSocket::bind(any).and_then(|socket| socket.local_addr()).expect("a port");
    let id = replica::seat(&follower, port, None).expect("a key").address.node;
    let mut network =
        NetworkFile::new("held", vec![replica::seat(&validator, port, None).expect("a seat")]).expect("made");
    network.genesis.opening.push((id, Credits::whole(5)));
    for dir in [&validator, &follower] {
        replica::join_network(dir, &network).expect("joined");
    }
    let still = net::NetConfig { secret: [9; 32], bind: any, mdns: false, relays: vec![], rates: (0, 0) };
    let still = net::Net::open(still, Arc::new(()), Some(Arc::new(Still)), None).await.expect("open");
    let b = Node::start(config(&follower, any)).await.expect("a node starts");
    let (chain, run) = (network.genesis.chain(), Hash([7; 32]));
    let ticket = net::Ticket { chain, run, anchor: None, peers: vec![still.address()] };
    b.follow(ticket).await.expect("followed");
    let a = Node::start(config(&validator, port)).await.expect("a node starts");

    let friend = NodeId([3; 32]);
    let sent = b.spend(None, ledger::WalletTx::Transfer { to: friend, amount: Credits::whole(1) }).await;
    match sent {
        Ok(_) => {}
        // It is left after half a minute; the next block comes from the validator.
        Err(SpendError::Unknown(_)) => drop(b.prove(None, &id).await.expect("blocks come again")),
        Err(error) => panic!("{error}"),
    }
    assert_eq!(b.account(None, &id).expect("known").transactions, 1);
    assert_eq!(a.account(None, &friend).expect("known").balance_micro, 1_000_000);
    b.close().await.expect("closed");
    a.close().await.expect("closed");
    still.close().await;
}
