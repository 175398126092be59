//! The transactions that events belong to.

use crate::raw::{Element, Elements};

/// The transaction of an event, as its fields `lsid` and `txnNumber` name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum TransactionId {
    /// The event belongs to no transaction.
    #[default]
    None,
    /// A session and the number of the transaction in it.
    Known(SessionTransaction),
    /// The fields are not in MongoDB's form, so the event may belong to any transaction.
    Unreadable,
}

/// A transaction: the session's UUID and the number within the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SessionTransaction {
    session: [u8; 16],
    number: i64,
}

impl TransactionId {
    /// Reads the fields `lsid` and `txnNumber`, as far as the event has them.
    pub(super) fn read(lsid: Option<Element<'_>>, number: Option<Element<'_>>) -> Self {
        if lsid.is_none() && number.is_none() {
            return Self::None;
        }
        let known = || {
            let session = session_of(lsid?.as_document()?)?;
            let number = number?.as_int()?;
            Some(Self::Known(SessionTransaction { session, number }))
        };
        known().unwrap_or(Self::Unreadable)
    }

    /// Returns the transaction, if the event certainly belongs to one.
    pub(super) fn known(self) -> Option<SessionTransaction> {
        match self {
            Self::Known(transaction) => Some(transaction),
            Self::None | Self::Unreadable => None,
        }
    }
}

fn session_of(lsid: &[u8]) -> Option<[u8; 16]> {
    let mut fields = Elements::new(lsid).ok()?.map_while(Result::ok);
    let (_, id) = fields.find(|it| it.key == b"id")?.as_binary()?;
    id.try_into().ok()
}
