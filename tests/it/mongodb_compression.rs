//! Compressed traffic with MongoDB, where the URI asks for it. The test database does not compress, so a
//! proxy in front of it does what MongoDB does: it agrees on one of the client's algorithms, and answers a
//! compressed command with a compressed reply.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::orders::{ORDERS, id};
use crate::support::{Database, Weir};
use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use mongodb::bson::{Bson, Document, doc};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

const OP_COMPRESSED: i32 = 2012;
const OP_MSG: i32 = 2013;

/// The length of a message's header, and of what precedes the document in an `OP_MSG`.
const HEADER: usize = 16;
const BEFORE_DOCUMENT: usize = HEADER + 5;

/// The opcode, the uncompressed length and the algorithm, in a compressed message.
const BEFORE_COMPRESSED: usize = HEADER + 9;

/// An algorithm, with its number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Snappy = 1,
    Zlib = 2,
    Zstd = 3,
}

impl Algorithm {
    const ALL: [Self; 3] = [Self::Snappy, Self::Zlib, Self::Zstd];

    fn name(self) -> &'static str {
        match self {
            Self::Snappy => "snappy",
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
        }
    }

    fn compress(self, plain: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Snappy => Ok(snap::raw::Encoder::new().compress_vec(plain)?),
            Self::Zlib => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(plain)?;
                encoder.finish()
            }
            Self::Zstd => zstd::bulk::compress(plain, 3),
        }
    }

    fn decompress(self, packed: &[u8], length: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::Snappy => Ok(snap::raw::Decoder::new().decompress_vec(packed)?),
            Self::Zlib => {
                let mut plain = Vec::with_capacity(length);
                ZlibDecoder::new(packed).read_to_end(&mut plain)?;
                Ok(plain)
            }
            Self::Zstd => zstd::bulk::decompress(packed, length),
        }
    }
}

/// The traffic from the database to Weir.
#[derive(Default)]
struct Traffic {
    plain: AtomicUsize,
    sent: AtomicUsize,
    compressed_commands: AtomicUsize,
    /// True if a client has offered the algorithm.
    offered: AtomicBool,
}

/// A proxy in front of the database that compresses with one algorithm.
struct CompressingProxy {
    address: SocketAddr,
    traffic: Arc<Traffic>,
    _accepting: AbortOnDropHandle<()>,
}

impl CompressingProxy {
    async fn start(upstream: SocketAddr, algorithm: Algorithm) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let traffic = Arc::new(Traffic::default());
        let counted = Arc::clone(&traffic);
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let traffic = Arc::clone(&counted);
                connections.spawn(async move {
                    let server = TcpStream::connect(upstream).await?;
                    forward(client, server, algorithm, &traffic).await
                });
            }
        });
        Self {
            address,
            traffic,
            _accepting: AbortOnDropHandle::new(accepting),
        }
    }
}

async fn forward(
    client: TcpStream,
    server: TcpStream,
    algorithm: Algorithm,
    traffic: &Traffic,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    // The requests that came compressed, so that their replies are compressed too.
    let compressed = Mutex::new(HashMap::new());
    let up = async {
        loop {
            let message = receive(&mut from_client).await?;
            let message = if number(&message, 12) == OP_COMPRESSED {
                traffic.compressed_commands.fetch_add(1, Ordering::SeqCst);
                let mut compressed = compressed.lock().expect("no test panics with it");
                compressed.insert(number(&message, 4), ());
                unpack(&message, algorithm)?
            } else {
                let command = document(&message)?;
                let offers = command.get_array("compression").is_ok_and(|offered| {
                    offered
                        .iter()
                        .any(|it| it.as_str() == Some(algorithm.name()))
                });
                if offers {
                    traffic.offered.store(true, Ordering::SeqCst);
                }
                message
            };
            send(&mut to_server, &message).await?;
        }
        #[expect(unreachable_code, reason = "it names the type of the error")]
        Ok::<(), io::Error>(())
    };
    let down = async {
        loop {
            let mut message = receive(&mut from_server).await?;
            traffic.plain.fetch_add(message.len(), Ordering::SeqCst);
            let was_compressed = {
                let mut compressed = compressed.lock().expect("no test panics with it");
                compressed.remove(&number(&message, 8)).is_some()
            };
            if was_compressed {
                message = pack(&message, algorithm)?;
            } else {
                let mut reply = document(&message)?;
                if reply.contains_key("maxWireVersion") {
                    reply.insert("compression", vec![Bson::from(algorithm.name())]);
                    message = with_document(&message, &reply)?;
                }
            }
            traffic.sent.fetch_add(message.len(), Ordering::SeqCst);
            send(&mut to_client, &message).await?;
        }
        #[expect(unreachable_code, reason = "it names the type of the error")]
        Ok::<(), io::Error>(())
    };
    tokio::try_join!(up, down).map(|((), ())| ())
}

async fn receive(source: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let mut message = vec![0; HEADER];
    source.read_exact(&mut message).await?;
    let length = usize::try_from(number(&message, 0)).map_err(io::Error::other)?;
    message.resize(length, 0);
    source.read_exact(&mut message[HEADER..]).await?;
    Ok(message)
}

async fn send(sink: &mut OwnedWriteHalf, message: &[u8]) -> io::Result<()> {
    sink.write_all(message).await
}

fn number(message: &[u8], at: usize) -> i32 {
    i32::from_le_bytes([0, 1, 2, 3].map(|index| message[at + index]))
}

fn document(message: &[u8]) -> io::Result<Document> {
    Document::from_reader(&message[BEFORE_DOCUMENT..]).map_err(io::Error::other)
}

fn with_document(message: &[u8], document: &Document) -> io::Result<Vec<u8>> {
    let mut changed = message[..BEFORE_DOCUMENT].to_vec();
    changed.extend(document.to_vec().map_err(io::Error::other)?);
    Ok(with_length(changed))
}

fn with_length(mut message: Vec<u8>) -> Vec<u8> {
    let length = i32::try_from(message.len()).expect("a message is under 2 GiB");
    message[..4].copy_from_slice(&length.to_le_bytes());
    message
}

fn unpack(message: &[u8], algorithm: Algorithm) -> io::Result<Vec<u8>> {
    let number_on_wire = message[BEFORE_COMPRESSED - 1];
    if number_on_wire != algorithm as u8 {
        return Err(io::Error::other(format!("algorithm {number_on_wire}")));
    }
    let length = usize::try_from(number(message, HEADER + 4)).map_err(io::Error::other)?;
    let mut plain = message[..HEADER].to_vec();
    plain[12..].copy_from_slice(&message[HEADER..HEADER + 4]);
    plain.extend(algorithm.decompress(&message[BEFORE_COMPRESSED..], length)?);
    Ok(with_length(plain))
}

fn pack(message: &[u8], algorithm: Algorithm) -> io::Result<Vec<u8>> {
    let body = &message[HEADER..];
    let mut packed = message[..HEADER].to_vec();
    packed[12..].copy_from_slice(&OP_COMPRESSED.to_le_bytes());
    packed.extend(OP_MSG.to_le_bytes());
    let length = i32::try_from(body.len()).expect("a message is under 2 GiB");
    packed.extend(length.to_le_bytes());
    packed.push(algorithm as u8);
    packed.extend(algorithm.compress(body)?);
    Ok(with_length(packed))
}

/// Each algorithm alone, so that the driver can use no other.
#[tokio::test]
async fn the_traffic_with_mongodb_is_compressed_where_the_uri_asks_for_it() {
    const COUNT: i32 = 200;
    let database = Database::options().start().await;
    for algorithm in Algorithm::ALL {
        let proxy = CompressingProxy::start(database.address(), algorithm).await;
        let name = algorithm.name();
        let uri = format!(
            "mongodb://{}/?directConnection=true&compressors={name}",
            proxy.address
        );
        let weir = Weir::at(&uri, |_| {}).await;
        let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;
        let first = algorithm as i32 * 1_000;
        let documents = (0..COUNT).map(|number| {
            doc! { "_id": first + number, "note": "a note that many orders have. ".repeat(20) }
        });
        let orders = database.collection(ORDERS);
        orders
            .insert_many(documents)
            .await
            .expect("they are inserted");
        let changes = watch.changes(COUNT as usize).await;
        let ids: Vec<_> = changes.iter().map(id).collect();
        assert_eq!(ids, (first..first + COUNT).collect::<Vec<_>>(), "{name}");
        let traffic = &proxy.traffic;
        assert!(traffic.offered.load(Ordering::SeqCst), "{name}");
        let commands = traffic.compressed_commands.load(Ordering::SeqCst);
        assert!(commands > 0, "{name}");
        let plain = traffic.plain.load(Ordering::SeqCst);
        let sent = traffic.sent.load(Ordering::SeqCst);
        assert!(sent < plain / 2, "{name}: {sent} of {plain} bytes");
    }
}

/// A server that does not compress is used without, and so is one whose URI does not ask for it.
#[tokio::test]
async fn the_traffic_is_not_compressed_otherwise() {
    let database = Database::options().start().await;
    let proxy = CompressingProxy::start(database.address(), Algorithm::Zstd).await;
    for options in ["", "&compressors=snappy,zlib"] {
        let uri = format!(
            "mongodb://{}/?directConnection=true{options}",
            proxy.address
        );
        let weir = Weir::at(&uri, |_| {}).await;
        weir.watch(database.watch_request(&[ORDERS])).await;
    }
    assert!(!proxy.traffic.offered.load(Ordering::SeqCst));
    let commands = proxy.traffic.compressed_commands.load(Ordering::SeqCst);
    assert_eq!(commands, 0);
}
