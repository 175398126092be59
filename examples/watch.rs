//! Follows shop.orders. Started again, it continues after the last handled message.

use std::{env, error::Error, fs};

use prost::Message as _;
use weir::pb::{self, watch_request::Start, watch_response::Kind};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:50051".to_owned());
    let token_file = "orders.token";

    let token = fs::read(token_file).ok();
    let request = pb::WatchRequest {
        database: "shop".to_owned(),
        collections: vec!["orders".to_owned()],
        full_document: pb::FullDocument::UpdateLookup.into(),
        document_format: pb::DocumentFormat::Json.into(),
        start: token.map(|token| Start::ResumeToken(token.into())),
        ..Default::default()
    };

    let url = format!("http://{address}");
    let mut client = pb::watch_service_client::WatchServiceClient::connect(url).await?;
    let mut pieces = Vec::new();
    let mut messages = client.watch(request).await?.into_inner();
    while let Some(message) = messages.message().await? {
        let mut changes = Vec::new();
        match message.kind {
            Some(Kind::Opened(_)) => println!("watching"),
            Some(Kind::Changes(batch)) => changes = batch.changes,
            // A large event comes in pieces. A piece with index 0 starts it again.
            Some(Kind::EventChunk(piece)) => {
                pieces.truncate(piece.index as usize);
                pieces.push(piece.data);
                if piece.last {
                    changes.push(pb::ChangeEvent::decode(&pieces.concat()[..])?);
                }
            }
            _ => {}
        }
        for event in changes {
            println!("{} {:?}", event.operation().as_str_name(), event.change);
        }
        // Everything up to this message is handled now.
        fs::write(token_file, &message.resume_token)?;
    }
    Ok(())
}
