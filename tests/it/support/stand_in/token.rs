//! Resume tokens.
//!
//! They have the outer form of MongoDB's: `_data` is the hexadecimal form of a key whose order is
//! the order of the stream. A high-water token of a time stands before all events of that time.

use std::fmt::Write as _;

use mongodb::bson::{Bson, Document, Timestamp, doc};

/// The start of every token: a timestamp follows.
const TIMESTAMP: &str = "82";
/// The start of a token of another form.
const OPAQUE: &[u8] = b"F2";
/// The version of the tokens, 2.
const TOKEN_VERSION: &str = "2B04";
/// The kinds of token: 0 is high water, 128 is an event.
const HIGH_WATER: &str = "29";
const EVENT: &str = "2C0100";

/// What the tokens of a server tell of how far a stream is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tokens {
    /// They have MongoDB's form, and rise while it scans.
    #[default]
    Rising,
    /// They have MongoDB's form, and an empty reply repeats the one before.
    Staying,
    /// They have another form, and rise while it scans.
    Opaque,
}

impl Tokens {
    /// Changes the tokens in the BSON of an answer to those that the client sees.
    pub(super) fn show(self, answer: &mut [u8]) {
        self.exchange(answer, TIMESTAMP.as_bytes(), OPAQUE);
    }

    /// Changes the tokens of a command back.
    pub(super) fn read(self, command: Document) -> Document {
        if self != Self::Opaque {
            return command;
        }
        let mut bytes = command.to_vec().expect("it was received as BSON");
        self.exchange(&mut bytes, OPAQUE, TIMESTAMP.as_bytes());
        Document::from_reader(&bytes[..]).expect("the lengths have not changed")
    }

    /// Exchanges the first two digits of every token.
    fn exchange(self, bson: &mut [u8], from: &[u8], to: &[u8]) {
        const NAME: &[u8] = b"\x02_data\0";
        if self != Self::Opaque {
            return;
        }
        for at in 0..bson.len().saturating_sub(NAME.len() + 6) {
            let text = at + NAME.len() + 4;
            if bson[at..].starts_with(NAME) && bson[text..].starts_with(from) {
                bson[text..text + to.len()].copy_from_slice(to);
            }
        }
    }
}

/// A place in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Seconds and increment.
    time: (u32, u32),
    /// False for a high-water token.
    is_event: bool,
    /// The number of the event among those of its time.
    number: u32,
    /// True for the `invalidate` that follows the event.
    invalidates: bool,
}

impl Place {
    /// The place before the events of a time.
    pub fn high_water(time: Timestamp) -> Self {
        Self {
            time: (time.time, time.increment),
            is_event: false,
            number: 0,
            invalidates: false,
        }
    }

    pub fn event(time: Timestamp, number: u32) -> Self {
        Self {
            is_event: true,
            number,
            ..Self::high_water(time)
        }
    }

    /// The `invalidate` that this event causes.
    pub fn invalidation(self) -> Self {
        Self {
            invalidates: true,
            ..self
        }
    }

    pub fn time(self) -> Timestamp {
        Timestamp {
            time: self.time.0,
            increment: self.time.1,
        }
    }

    pub fn is_event(self) -> bool {
        self.is_event
    }

    pub fn invalidates(self) -> bool {
        self.invalidates
    }

    /// The token of a high-water place.
    pub fn high_water_token(self) -> Document {
        let (seconds, increment) = self.time;
        let data =
            format!("{TIMESTAMP}{seconds:08X}{increment:08X}{TOKEN_VERSION}{HIGH_WATER}296E1404");
        doc! { "_data": data }
    }

    /// The token of an event with this operation, namespace and key. Like MongoDB's, it holds the
    /// whole key.
    pub fn event_token(self, operation: &str, namespace: &str, key: &Document) -> Document {
        let (seconds, increment) = self.time;
        let number = match self.number {
            0 => "29".to_owned(),
            number @ 1..128 => format!("2B{:02X}", number << 1),
            number => format!("2C{:04X}", number << 1),
        };
        let invalidates = if self.invalidates { "6F" } else { "6E" };
        // The UUID of a collection: any 16 bytes, the same for the same name.
        let mut uuid = [0_u8; 16];
        for (index, byte) in namespace.bytes().enumerate() {
            uuid[index % 16] = uuid[index % 16].rotate_left(3) ^ byte;
        }
        let mut data = format!(
            "{TIMESTAMP}{seconds:08X}{increment:08X}{TOKEN_VERSION}{EVENT}{number}{invalidates}5A1004"
        );
        let key = key.to_vec().expect("a key is BSON");
        let parts: [&[u8]; 6] = [
            &uuid,
            b"F<operationType\0<",
            operation.as_bytes(),
            b"\0FdocumentKey\0",
            &key,
            &[0, 0, 4],
        ];
        for byte in parts.concat() {
            write!(data, "{byte:02X}").expect("a string takes any text");
        }
        doc! { "_data": data }
    }

    /// The place of a token; `None` if it is none of MongoDB's.
    pub fn parse(token: &Document) -> Option<Self> {
        let data = token.get("_data").and_then(Bson::as_str)?;
        let hex = |range| u32::from_str_radix(data.get(range)?, 16).ok();
        let rest = data.strip_prefix(TIMESTAMP)?;
        let time = Timestamp {
            time: hex(2..10)?,
            increment: hex(10..18)?,
        };
        let rest = rest.get(16..)?.strip_prefix("2B")?.get(2..)?;
        let Some(rest) = rest.strip_prefix(EVENT) else {
            return rest
                .starts_with(HIGH_WATER)
                .then_some(Self::high_water(time));
        };
        let digits = |range| u32::from_str_radix(rest.get(range)?, 16).ok();
        let (number, rest) = match rest.get(..2)? {
            "29" => (0, rest.get(2..)?),
            "2B" => (digits(2..4)? >> 1, rest.get(4..)?),
            "2C" => (digits(2..6)? >> 1, rest.get(6..)?),
            _ => return None,
        };
        let event = Self::event(time, number);
        Some(if rest.starts_with("6F") {
            event.invalidation()
        } else {
            event
        })
    }
}

/// The high-water token of a time, which a server takes with every pipeline: it stands before the
/// events of that time.
pub fn high_water_token(time: Timestamp) -> Document {
    Place::high_water(time).high_water_token()
}

/// Returns whether a token is that of an event, which a stream that resumes after it must find again.
pub fn is_of_an_event(token: &Document) -> bool {
    Place::parse(token).is_some_and(Place::is_event)
}
