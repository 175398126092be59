//! The state of the stand-in: its oplog, its cursors, and the script.

use std::collections::{HashMap, VecDeque};
use std::net::{Shutdown, TcpStream};

use mongodb::bson::{Bson, Document, Timestamp};

use super::event::{Entry, Event, Slot};
use super::pipeline::Pipeline;
use super::reply::bytes_of;
use super::script::Script;
use super::token::{Place, Tokens};
use super::{Answer, FIRST_SECOND, Reply, Request, ServerError, Version, position_token, time};

/// The maximum number of events in one reply of a stand-in without a version.
const BATCH: usize = 100;
/// The number of events in the first reply when the `aggregate` does not say.
const FIRST_BATCH: usize = 101;

pub(super) type Alter = Box<dyn Fn(&mut Reply) + Send>;

#[derive(Default)]
pub(super) struct State {
    /// The server to behave as; `None` for one that filters nothing.
    pub version: Option<Version>,
    /// The events of all logs, in order.
    pub entries: Vec<Entry>,
    pub logs: HashMap<String, LogState>,
    pub cursors: HashMap<i64, Cursor>,
    pub script: Script,
    /// The count of each command.
    pub command_count: HashMap<String, u64>,
    /// The operation time that a test has set.
    pub clock: Option<Timestamp>,
    /// The time of the oldest oplog entry.
    pub oldest: Option<Timestamp>,
    /// The maximum number of entries that one reply scans.
    pub scan_limit: Option<usize>,
    /// What tokens tell, on a server with a version.
    pub tokens: Tokens,
    pub connections: HashMap<u64, Connection>,
    pub stopped: bool,
}

/// An open connection.
pub(super) struct Connection {
    pub handle: TcpStream,
    /// True from the arrival of a command to its answer.
    pub busy: bool,
}

/// The settings of the streams on one collection, or on the database as a whole.
#[derive(Default)]
pub(super) struct LogState {
    pub answers: VecDeque<Answer>,
    pub alter: Option<Alter>,
    pub batch: Option<usize>,
    /// True if the first batch contains events.
    pub events_in_first_batch: bool,
    /// True if it answers at once, even with an empty batch.
    pub answer_at_once: bool,
    /// The count of each command for this log.
    pub command_count: HashMap<String, u64>,
}

pub(super) struct Cursor {
    pub log: String,
    pub aggregate: Document,
    /// The index of the next entry of the oplog to read.
    position: usize,
    /// The stream of a server with a version.
    stream: Option<Stream>,
}

/// A stream on a server that behaves as one of a version.
struct Stream {
    pipeline: Pipeline,
    /// The event whose token the stream resumes after, until it has been seen again.
    resumed_event: Option<(Place, Document)>,
    /// The last place that was reached, and its token.
    reached: (Place, Document),
    /// True if it was opened with a resume token.
    resumed: bool,
    /// The token that empty replies repeat, if they do.
    repeated: Option<Document>,
}

impl State {
    pub fn cut(&mut self, only_idle: bool) {
        self.connections.retain(|_, connection| {
            let keep = only_idle && connection.busy;
            if !keep {
                // It may be closed already.
                let _ = connection.handle.shutdown(Shutdown::Both);
            }
            keep
        });
    }

    pub fn push(
        &mut self,
        (database, log): (&str, &str),
        event: Event,
        also_in: &[&str],
        with_last: bool,
    ) {
        let of_log = |entry: &&Entry| entry.log == log;
        let last = self.entries.last();
        // The events of a transaction have the time of its first event.
        let (seconds, number) = match last.filter(|_| with_last) {
            Some(last) => (last.time().time, self.number_at(last.time())),
            None => (self.next_second(), 0),
        };
        let mut event = event;
        let own_time = match &mut event {
            Event::Document(event) | Event::Failing { event, .. } => {
                if let Some(last) = last.filter(|_| with_last) {
                    event.insert("clusterTime", last.time());
                }
                event.get_timestamp("clusterTime").ok()
            }
            Event::Raw(_) => None,
        };
        let slot = Slot {
            position: self.entries.iter().filter(of_log).count(),
            seconds,
            number: own_time.map_or(number, |time| self.number_at(time)),
            real_token: self.version.is_some(),
        };
        let mut entry = Entry::new(database, log, event, &slot);
        entry.also_in = also_in.iter().map(|&name| name.to_owned()).collect();
        self.entries.push(entry);
    }

    /// The number of events at the end of the oplog that have this time.
    fn number_at(&self, time: Timestamp) -> u32 {
        let same = self.entries.iter().rev();
        let count = same.take_while(|entry| entry.time() == time).count();
        u32::try_from(count).expect("a test writes few events")
    }

    /// The second of the next event.
    fn next_second(&self) -> u32 {
        if self.version.is_none() {
            let count = u32::try_from(self.entries.len()).expect("a test writes few events");
            return FIRST_SECOND + count;
        }
        let last = self.entries.last().map(|entry| entry.time().time + 1);
        let clock = self.clock.map(|clock| clock.time + 1);
        let known = last.max(clock);
        known.unwrap_or_default().max(FIRST_SECOND)
    }

    /// The operation time: right before the next event, unless a test has set it. The time of a
    /// server with a version is at least that of its last event.
    pub fn now(&self) -> Timestamp {
        let now = self.clock.unwrap_or(time(self.next_second() - 1, 1));
        match self.entries.last() {
            Some(last) if self.version.is_some() => now.max(last.time()),
            _ => now,
        }
    }

    /// Counts a command, as a whole and for its log.
    pub fn count(&mut self, request: &Request) {
        let name = request.name();
        *self.command_count.entry(name.to_owned()).or_default() += 1;
        if name == "aggregate" || name == "getMore" {
            let log = request.collection().unwrap_or_default().to_owned();
            let log = self.logs.entry(log).or_default();
            *log.command_count.entry(name.to_owned()).or_default() += 1;
        }
    }

    /// Opens a cursor and returns its id.
    pub fn open(&mut self, command: &Document) -> Result<i64, ServerError> {
        let log = command.get_str("aggregate").unwrap_or_default().to_owned();
        let cursor = match self.version.clone() {
            None => Cursor {
                position: self.requested_position(&log, command)?,
                log,
                aggregate: command.clone(),
                stream: None,
            },
            Some(version) => match Pipeline::parse(command, &version)? {
                Some(pipeline) => {
                    let (position, stream) = self.open_stream(pipeline)?;
                    Cursor {
                        log,
                        aggregate: command.clone(),
                        position,
                        stream: Some(stream),
                    }
                }
                None => {
                    return Err(ServerError::new(59)
                        .named("CommandNotFound")
                        .message("the stand-in only aggregates change streams"));
                }
            },
        };
        let id = fastrand::i64(1..);
        self.cursors.insert(id, cursor);
        Ok(id)
    }

    /// Finds the start of a stream on a server with a version.
    fn open_stream(&self, pipeline: Pipeline) -> Result<(usize, Stream), ServerError> {
        let options = pipeline.options();
        let stream = |position, place: Place, token: Document, resumed_event, resumed| {
            if self.oldest.is_some_and(|oldest| place.time() < oldest) {
                return Err(ServerError::history_lost());
            }
            let repeats = self.tokens == Tokens::Staying;
            let stream = Stream {
                repeated: repeats.then(|| token.clone()),
                pipeline: pipeline.clone(),
                resumed_event,
                reached: (place, token),
                resumed,
            };
            Ok((position, stream))
        };
        let first_since = |place: Place| {
            let mut entries = self.entries.iter();
            let first = entries.position(|entry| entry.place >= place);
            first.unwrap_or(self.entries.len())
        };
        for option in ["resumeAfter", "startAfter"] {
            let Ok(token) = options.get_document(option) else {
                continue;
            };
            let own = |entry: &Entry| entry.token.as_ref() == Some(token);
            if let Some(index) = self.entries.iter().rposition(own) {
                let place = self.entries[index].place;
                let event = Some((place, token.clone()));
                return stream(index, place, token.clone(), event, true);
            }
            let place = Place::parse(token).ok_or_else(|| {
                ServerError::new(50811).message("KeyString format error: unknown type")
            })?;
            if place.invalidates() && option == "resumeAfter" {
                return Err(ServerError::new(260).named("InvalidResumeToken").message(
                    "Attempting to resume a change stream using 'resumeAfter' is not allowed from \
                     an invalidate notification.",
                ));
            }
            let event = (place.is_event() && !place.invalidates()).then(|| (place, token.clone()));
            return stream(first_since(place), place, token.clone(), event, true);
        }
        let (position, place) = match options.get_timestamp("startAtOperationTime") {
            Ok(from) => (
                first_since(Place::high_water(from)),
                Place::high_water(from),
            ),
            // One tick past the last operation, as MongoDB starts (document_source_change_stream.cpp), so
            // that a resume from the first token does not return that operation.
            Err(_) => {
                let now = self.now();
                let start = time(now.time, now.increment + 1);
                (self.entries.len(), Place::high_water(start))
            }
        };
        stream(position, place, place.high_water_token(), None, false)
    }

    /// The index of the first entry that an `aggregate` asks for, on a server without a version.
    fn requested_position(&self, log: &str, aggregate: &Document) -> Result<usize, ServerError> {
        let end = self.entries.len();
        let options = aggregate.get_array("pipeline").ok().and_then(|stages| {
            stages
                .first()?
                .as_document()?
                .get_document("$changeStream")
                .ok()
        });
        let Some(options) = options else {
            return Ok(end);
        };
        let entries = || (0..end).filter(|&at| self.entries[at].log == log);
        for option in ["resumeAfter", "startAfter"] {
            let Ok(token) = options.get_document(option) else {
                continue;
            };
            let own = |at: &usize| self.entries[*at].token.as_ref() == Some(token);
            if let Some(event) = entries().rev().find(own) {
                return Ok(event + 1);
            }
            let data = token.get_str("_data").unwrap_or_default();
            let position = data
                .strip_prefix('P')
                .and_then(|position| position.parse().ok());
            return position.ok_or_else(|| {
                ServerError::new(260)
                    .named("InvalidResumeToken")
                    .message("the stand-in has never issued this token")
            });
        }
        Ok(match options.get_timestamp("startAtOperationTime") {
            Ok(from) => {
                let at = entries().find(|&at| self.entries[at].time() >= from);
                at.unwrap_or(end)
            }
            Err(_) => end,
        })
    }

    /// Returns whether there is nothing for a cursor to read.
    pub fn is_quiet(&self, id: i64) -> bool {
        let Some(cursor) = self.cursors.get(&id) else {
            return false;
        };
        if let Some(log) = self.logs.get(&cursor.log)
            && (log.answer_at_once || !log.answers.is_empty())
        {
            return false;
        }
        let mut rest = self.entries.iter().skip(cursor.position);
        match &cursor.stream {
            None => !rest.any(|entry| entry.log == cursor.log),
            Some(_) if self.scan_limit.is_some_and(|limit| rest.len() > limit) => false,
            Some(stream) => !rest.any(|entry| stream.is_news(entry)),
        }
    }

    /// Advances a cursor and returns the events that it passed.
    pub fn reply(&mut self, id: i64, request: &Request) -> Result<Reply, ServerError> {
        let first = request.name() == "aggregate";
        let now = self.now();
        let Some(cursor) = self.cursors.get_mut(&id) else {
            return Err(cursor_not_found());
        };
        let session = |command: &Document| command.get("lsid").cloned();
        if session(&cursor.aggregate) != session(request.command()) {
            return Err(ServerError::new(50738)
                .named("Location50738")
                .message("Cannot run getMore on a cursor which was created in another session"));
        }
        let log = self.logs.entry(cursor.log.clone()).or_default();
        let mut reply = Reply {
            first,
            cursor: id,
            events: Vec::new(),
            post_batch_token: None,
            operation_time: Some(now),
        };
        match &mut cursor.stream {
            None => {
                let limit = match first && !log.events_in_first_batch {
                    true => 0,
                    false => log.batch.unwrap_or(BATCH),
                };
                let mut rest = (cursor.position..self.entries.len())
                    .filter(|&at| self.entries[at].log == cursor.log);
                let read: Vec<usize> = rest.by_ref().take(limit).collect();
                cursor.position = match (read.last(), rest.next()) {
                    (_, None) if limit > 0 => self.entries.len(),
                    (Some(last), _) => last + 1,
                    (None, _) => cursor.position,
                };
                let bytes = |&at: &usize| self.entries[at].bytes.clone();
                reply.events = read.iter().map(bytes).collect();
                reply.post_batch_token = Some(bytes_of(&position_token(cursor.position)));
            }
            Some(stream) => {
                let asked = request.batch_size().and_then(|it| usize::try_from(it).ok());
                let usual = if first { FIRST_BATCH } else { usize::MAX };
                let limit = asked.unwrap_or(usual).min(log.batch.unwrap_or(usize::MAX));
                let limits = (limit, self.scan_limit.unwrap_or(usize::MAX));
                stream.read(&self.entries, &mut cursor.position, limits, now, &mut reply)?;
            }
        }
        if let Some(alter) = &log.alter {
            alter(&mut reply);
        }
        if reply.cursor == 0 {
            self.cursors.remove(&id);
        }
        Ok(reply)
    }

    /// A reply with these events, which leaves the cursor where it is.
    pub fn scripted_reply(
        &self,
        id: i64,
        first: bool,
        (events, token): (Vec<Vec<u8>>, Option<Document>),
    ) -> Result<Reply, ServerError> {
        let cursor = self.cursors.get(&id).ok_or_else(cursor_not_found)?;
        let usual = match &cursor.stream {
            Some(stream) => stream.reached.1.clone(),
            None => position_token(cursor.position),
        };
        Ok(Reply {
            first,
            cursor: id,
            events,
            post_batch_token: Some(bytes_of(&token.unwrap_or(usual))),
            operation_time: Some(self.now()),
        })
    }

    /// Closes the cursors of a `killCursors`.
    pub fn kill(&mut self, command: &Document) -> Vec<Bson> {
        let killed = command.get_array("cursors").cloned().unwrap_or_default();
        for id in killed.iter().filter_map(Bson::as_i64) {
            self.cursors.remove(&id);
        }
        killed
    }
}

pub(super) fn cursor_not_found() -> ServerError {
    ServerError::new(43)
        .named("CursorNotFound")
        .message("cursor id not found")
}

impl Stream {
    /// Returns whether an entry gives the stream something to answer.
    fn is_news(&self, entry: &Entry) -> bool {
        if self.is_resumed_event(entry) {
            return self.pipeline.event(entry).is_err();
        }
        // An error is news as well.
        self.pipeline.concerns(entry).unwrap_or(true)
    }

    fn is_resumed_event(&self, entry: &Entry) -> bool {
        let token = self.resumed_event.as_ref().map(|(_, token)| token);
        token.is_some() && token == entry.token.as_ref()
    }

    /// Reads on from a position of the oplog.
    fn read(
        &mut self,
        entries: &[Entry],
        position: &mut usize,
        (batch_limit, scan_limit): (usize, usize),
        now: Timestamp,
        reply: &mut Reply,
    ) -> Result<(), ServerError> {
        let version = self.pipeline.version().clone();
        if version.is_mongos() {
            if reply.first {
                // It answers before its shards have.
                let (place, token) = &self.reached;
                let regresses = self.resumed && version.first_token_regresses();
                let earlier = Timestamp {
                    time: place.time().time.saturating_sub(1),
                    ..place.time()
                };
                reply.post_batch_token = Some(bytes_of(&match regresses {
                    true => Place::high_water(earlier).high_water_token(),
                    false => token.clone(),
                }));
                return Ok(());
            }
            // It does not pass the batch size on to its shards.
            for entry in entries.iter().skip(*position).take(scan_limit) {
                if self.pipeline.scans(entry)? {
                    self.pipeline.event(entry)?;
                }
            }
        }
        let end = position.saturating_add(scan_limit).min(entries.len());
        while *position < end && reply.events.len() < batch_limit && reply.cursor != 0 {
            let entry = &entries[*position];
            self.read_entry(entry, reply)?;
            *position += 1;
            self.reach(Place::high_water(entry.time()), None);
        }
        if *position == entries.len() && reply.cursor != 0 {
            self.reach(Place::high_water(now), None);
        }
        if let Some(repeated) = &mut self.repeated
            && !reply.events.is_empty()
        {
            repeated.clone_from(&self.reached.1);
        }
        let token = self.repeated.as_ref().unwrap_or(&self.reached.1);
        reply.post_batch_token = Some(bytes_of(token));
        Ok(())
    }

    fn read_entry(&mut self, entry: &Entry, reply: &mut Reply) -> Result<(), ServerError> {
        let own = self.is_resumed_event(entry);
        if self.pipeline.scans(entry)?
            && let Some(event) = self.pipeline.event(entry)?
        {
            if own {
                self.resumed_event = None;
                return Ok(());
            }
            let passed = self.resumed_event.as_ref();
            if passed.is_some_and(|(place, _)| entry.place > *place) {
                return Err(ServerError::token_not_found());
            }
            if let Some(token) = &entry.token {
                self.reach(entry.place, Some(token));
            }
            reply.events.push(event);
        }
        if !own && self.pipeline.is_invalidated_by(entry) {
            let invalidation = entry.invalidation();
            if let Ok(token) = invalidation.get_document("_id") {
                self.reach(entry.place.invalidation(), Some(token));
            }
            reply
                .events
                .extend(self.pipeline.invalidation(invalidation)?);
            reply.cursor = 0;
        }
        Ok(())
    }

    /// Notes a place, with its token if it is an event, unless it lies before the last one.
    fn reach(&mut self, place: Place, token: Option<&Document>) {
        if place > self.reached.0 {
            let token = token.cloned();
            self.reached = (place, token.unwrap_or_else(|| place.high_water_token()));
        }
    }
}
