//! What strangers can take of a node: not its memory, not its places, not its time. Real endpoints on loopback.

use base::{ChunkTree, Hash, Keypair, NodeId, Reject, Wire};
use bytes::Bytes;
use iroh::endpoint::{Connection, QuicTransportConfig, VarInt, presets};
use iroh::{Endpoint, EndpointAddr, EndpointId, SecretKey, TransportAddr};
use net::{Content, Net, NetConfig};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);
const BULK: &[u8] = b"talkoo/bulk/1";
const CHUNKS: usize = 64;

/// One content, and how often it was asked for.
struct Counted {
    tree: Arc<ChunkTree>,
    bytes: Vec<u8>,
    trees: tokio::sync::watch::Sender<usize>,
    chunks: AtomicUsize,
    refused: Mutex<Vec<Reject>>,
}

impl Counted {
    fn new() -> Arc<Self> {
        let bytes: Vec<u8> = (0..CHUNKS * base::CHUNK_BYTES).map(|i| (i / 977) as u8).collect();
        let tree = Arc::new(ChunkTree::of(&bytes));
        Arc::new(Self {
            tree,
            bytes,
            trees: Default::default(),
            chunks: AtomicUsize::new(0),
            refused: Mutex::default(),
        })
    }
}

impl Content for Counted {
    fn tree(&self, root: &Hash, _by: &NodeId) -> Option<Arc<ChunkTree>> {
        self.trees.send_modify(|n| *n += 1);
        (*root == self.tree.root()).then(|| self.tree.clone())
    }
    fn chunk(&self, _root: &Hash, index: usize, _by: &NodeId) -> Option<Bytes> {
        self.chunks.fetch_add(1, Ordering::SeqCst);
        Some(Bytes::copy_from_slice(&self.bytes[self.tree.range(index)]))
    }
    fn sent(&self, _bytes: usize) {}
    fn refused(&self, _by: &NodeId, why: Reject) {
        self.refused.lock().expect("unpoisoned").push(why);
    }
}

async fn node(content: Arc<Counted>) -> (Net, NodeId) {
    let secret = [7; 32];
    let config = NetConfig { secret, bind: ([127, 0, 0, 1], 0).into(), mdns: false, relays: vec![], rates: (0, 0) };
    let net = Net::open(config, content, None, None).await.expect("an endpoint");
    let id = Keypair::from_secret(secret).id();
    (net, id)
}

/// A peer that follows no protocol; it opens no window for what is sent to it.
async fn hostile(secret: u8) -> Endpoint {
    let transport = QuicTransportConfig::builder()
        .stream_receive_window(VarInt::from_u32(1024))
        .max_idle_timeout(Some(VarInt::from_u32(60_000).into()))
        .build();
    let builder = Endpoint::builder(presets::Minimal).secret_key(SecretKey::from_bytes(&[secret; 32]));
    let builder = builder.clear_address_lookup().transport_config(transport).clear_ip_transports();
    builder.bind_addr("127.0.0.1:0").expect("an address").bind().await.expect("an endpoint")
}

async fn connect(endpoint: &Endpoint, net: &Net, id: NodeId) -> Option<Connection> {
    let sockets = net.address().sockets.into_iter().map(TransportAddr::Ip);
    let address = EndpointAddr::from_parts(EndpointId::from_bytes(&id.0).expect("a key"), sockets);
    tokio::time::timeout(DEADLINE, endpoint.connect(address, BULK)).await.expect("in time").ok()
}

/// Asks for chunk `index` and reads nothing.
async fn ask(
    connection: &Connection,
    root: Hash,
    index: u32,
) -> (iroh::endpoint::SendStream, iroh::endpoint::RecvStream) {
    let (mut send, receive) = connection.open_bi().await.expect("a stream");
    let request = [&[1][..], &root.to_bytes(), &index.to_bytes()].concat();
    send.write_all(&(request.len() as u32).to_le_bytes()).await.expect("sent");
    send.write_all(&request).await.expect("sent");
    send.finish().expect("finished");
    (send, receive)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_everything_and_reads_nothing_holds_two_chunks() {
    let content = Counted::new();
    let (net, id) = node(content.clone()).await;
    let peer = hostile(1).await;
    let connection = connect(&peer, &net, id).await.expect("a connection");
    let mut streams = Vec::new();
    for index in 0..CHUNKS as u32 {
        streams.push(ask(&connection, content.tree.root(), index).await);
    }
    let mut asked = content.trees.subscribe();
    let all = asked.wait_for(|asked| *asked >= CHUNKS);
    tokio::time::timeout(DEADLINE, all).await.expect("in time").expect("all were heard");
    // Somebody else is served meanwhile, whole.
    let secret = [9; 32];
    let config = NetConfig { secret, bind: ([127, 0, 0, 1], 0).into(), mdns: false, relays: vec![], rates: (0, 0) };
    let other = Net::open(config, Counted::new(), None, None).await.expect("an endpoint");
    other.know(&net.address());
    let root = content.tree.root();
    let fetched = other.fetch(root, u64::MAX, &[id], Vec::new(), &|_, _| {}).await.expect("fetched");
    assert_eq!(fetched.bytes, content.bytes);
    let read = content.chunks.load(Ordering::SeqCst) - CHUNKS;
    assert!(read <= 2, "{read} chunks were read for somebody who reads nothing");
    drop(streams);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_has_so_many_connections_and_no_more() {
    let content = Counted::new();
    let (net, id) = node(content.clone()).await;
    let peer = hostile(2).await;
    let mut open = Vec::new();
    for _ in 0..40 {
        let Some(connection) = connect(&peer, &net, id).await else { continue };
        // A connection that has a place answers a ping.
        let Ok((mut send, mut receive)) = connection.open_bi().await else { continue };
        let ping = [&[2][..], &7u64.to_bytes()].concat();
        let sent = send.write_all(&[&(ping.len() as u32).to_le_bytes()[..], &ping].concat()).await;
        let mut answer = [0; 12];
        if sent.is_ok() && receive.read_exact(&mut answer).await.is_ok() {
            open.push(connection);
        }
    }
    assert_eq!(open.len(), 24);
    let other = hostile(3).await;
    let connection = connect(&other, &net, id).await.expect("a connection");
    let (_send, mut receive) = ask(&connection, content.tree.root(), 3).await;
    let mut len = [0; 4];
    receive.read_exact(&mut len).await.expect("an answer");
    assert_eq!(u32::from_le_bytes(len) as usize, base::CHUNK_BYTES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_nothing_is_asked_is_closed() {
    let (net, id) = node(Counted::new()).await;
    let peer = hostile(4).await;
    let connection = connect(&peer, &net, id).await.expect("a connection");
    let closed = tokio::time::timeout(DEADLINE, connection.closed()).await.expect("closed in time");
    assert!(closed.to_string().contains("nothing was asked"), "{closed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_moved_is_dialled_where_it_is_as_soon_as_that_is_known() {
    let (there, id) = node(Counted::new()).await;
    let config =
        NetConfig { secret: [9; 32], bind: ([127, 0, 0, 1], 0).into(), mdns: false, relays: vec![], rates: (0, 0) };
    let net = Net::open(config, Counted::new(), None, None).await.expect("an endpoint");
    // Where it was takes packets and answers none.
    let dead = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let sockets = vec![dead.local_addr().expect("an address")];
    net.know(&net::Address { node: id, sockets, relay: None });
    let dialling = async {
        let found = net.ping(id).await;
        assert!(found.is_ok(), "{:?}", found.err());
    };
    let learning = async {
        // Once the first packet came, it is being dialled.
        let came = tokio::task::spawn_blocking(move || {
            let mut packet = [0; 2048];
            dead.recv(&mut packet).expect("a packet");
            dead
        });
        let _dead = came.await.expect("it was dialled");
        net.know(&there.address());
        std::future::pending::<()>().await
    };
    tokio::time::timeout(DEADLINE, async {
        tokio::select! { () = dialling => {}, () = learning => {} }
    })
    .await
    .expect("in time");
    net.close().await;
    there.close().await;
}
