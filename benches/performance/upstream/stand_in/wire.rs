//! MongoDB's wire protocol, as far as current drivers use it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use mongodb::bson::{DateTime, Document, doc};

/// The opcode of the only message type that the wire protocol still uses.
const OP_MSG: i32 = 2013;

/// Reads a message. Returns its id and its command.
pub fn receive(connection: &mut TcpStream) -> std::io::Result<(i32, Document)> {
    let mut header = [0; 16];
    connection.read_exact(&mut header)?;
    let number = |at: usize| i32::from_le_bytes([0, 1, 2, 3].map(|index| header[at + index]));
    let length = usize::try_from(number(0)).map_err(std::io::Error::other)?;
    if number(12) != OP_MSG {
        return Err(std::io::Error::other("not an OP_MSG"));
    }
    let mut body = vec![0; length.saturating_sub(header.len())];
    connection.read_exact(&mut body)?;
    // Four bytes of flags, and one that says that a document follows.
    let command = Document::from_reader(body.get(5..).unwrap_or_default());
    Ok((number(4), command.map_err(std::io::Error::other)?))
}

/// Writes the answer to a message.
pub fn send(connection: &mut TcpStream, request: i32, document: &[u8]) -> std::io::Result<()> {
    let length = i32::try_from(21 + document.len()).map_err(std::io::Error::other)?;
    let mut head = Vec::with_capacity(21);
    for number in [length, 0, request, OP_MSG, 0] {
        head.extend(number.to_le_bytes());
    }
    head.push(0);
    connection.write_all(&head)?;
    connection.write_all(document)
}

/// The answer to a command about the server and its address; `None` for any other command.
pub fn handshake_reply(command: &str, address: &str) -> Option<Document> {
    Some(match command {
        "hello" | "isMaster" | "ismaster" => doc! {
            "helloOk": true,
            "isWritablePrimary": true,
            "ismaster": true,
            "setName": "stand-in",
            "hosts": [address],
            "me": address,
            "minWireVersion": 0,
            "maxWireVersion": 25,
            "maxBsonObjectSize": 16 << 20,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "logicalSessionTimeoutMinutes": 30,
            "localTime": DateTime::now(),
            "readOnly": false,
        },
        "buildInfo" => doc! { "version": "8.0.0", "versionArray": [8, 0, 0, 0] },
        _ => return None,
    })
}
