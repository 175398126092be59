//! Whether a reader made the same document of a text, as far as the text's format says what it was.

use std::collections::BTreeSet;

use weir::raw::{Element, ElementType, Elements};

use super::{Format, Reader};

/// What a reader is known to do to some documents. Each has a row in docs/formats.md, and must still be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Undefined becomes null.
    UndefinedIsNull,
    /// A symbol becomes a string.
    SymbolIsString,
    /// A DBPointer becomes a DBRef. In npm's bson, its namespace is split at its one dot.
    DbPointerIsDbRef,
    /// A DBPointer without a namespace is refused.
    DbPointerNeedsNamespace,
    /// Options of a regular expression that the reader does not know are lost.
    RegexOptionsLost,
    /// They are refused.
    RegexOptionsRefused,
    /// `_id` is written first.
    IdFirst,
    /// Fields whose names look like indexes of an array are written first.
    IndexesFirst,
    /// The fields of a DBRef are written in the order of the specification.
    DbRefOrder,
    /// A null `$db` is lost.
    DbRefNullDb,
    /// A DBRef with a field that is named as an argument is refused.
    DbRefFieldRefused,
    /// A collection's name with one dot is split.
    DbRefSplit,
    /// A DBRef without a name is refused.
    DbRefNeedsName,
    /// A date beyond what JavaScript holds is written as 1970.
    DateBeyondRange,
    /// A UUID that does not have 16 bytes is refused.
    UuidLength,
    /// An integer beyond 2^53 without its type is rounded.
    IntegerRounded,
    /// A whole double without its type becomes an integer.
    WholeDoubleIsInteger,
    /// A name of one escaped character is read as a backslash, after an object that has one in its place.
    EscapedName,
}

impl Reader {
    /// Everything that this reader is known to do.
    pub fn faults(self) -> BTreeSet<Fault> {
        let faults: &[Fault] = match self {
            Reader::Python => &[
                Fault::UndefinedIsNull,
                Fault::SymbolIsString,
                Fault::DbPointerIsDbRef,
                Fault::RegexOptionsLost,
                Fault::IdFirst,
                Fault::DbRefOrder,
                Fault::DbRefNullDb,
                Fault::DbRefFieldRefused,
            ],
            Reader::Node => &[
                Fault::UndefinedIsNull,
                Fault::DbPointerIsDbRef,
                Fault::DbPointerNeedsNamespace,
                Fault::RegexOptionsRefused,
                Fault::IndexesFirst,
                Fault::DbRefOrder,
                Fault::DbRefSplit,
                Fault::DbRefNeedsName,
                Fault::DateBeyondRange,
                Fault::UuidLength,
                Fault::IntegerRounded,
                Fault::WholeDoubleIsInteger,
                Fault::EscapedName,
            ],
            Reader::Rust | Reader::Java => &[],
        };
        faults.iter().copied().collect()
    }
}

/// One comparison, and the faults that explain its differences.
pub struct Comparison {
    pub reader: Reader,
    pub format: Format,
    /// Whether the text keeps the order of fields.
    pub ordered: bool,
    pub seen: BTreeSet<Fault>,
}

type Difference = Result<(), String>;

impl Comparison {
    /// Compares a document with what the reader made of it. An error names the path of the difference.
    pub fn document(&mut self, original: &[u8], read: &[u8]) -> Difference {
        let expected = self.in_reading_order(fields(original), true);
        self.fields(expected, fields(read))
    }

    /// Checks that the reader had a known reason to refuse the document.
    pub fn refusal(&mut self, original: &[u8], error: &str) -> Difference {
        let refused = match self.reader {
            Reader::Python if error.contains("multiple values for argument 'collection'") => {
                Fault::DbRefFieldRefused
            }
            Reader::Node if error.contains("regular expression option [z] is not supported") => {
                Fault::RegexOptionsRefused
            }
            Reader::Node if error.contains("UUID constructor") => Fault::UuidLength,
            Reader::Node if error.contains("Cannot convert undefined or null to object") => {
                if any_value(original, &|it| it.kind == ElementType::DbPointer) {
                    Fault::DbPointerNeedsNamespace
                } else {
                    Fault::DbRefNeedsName
                }
            }
            _ => return Err(error.to_owned()),
        };
        let explains = |element: &Element<'_>| match refused {
            Fault::DbRefFieldRefused => element.key == b"collection",
            Fault::RegexOptionsRefused => element.as_regex().is_some_and(|it| it.1 == b"z"),
            Fault::UuidLength => element
                .as_binary()
                .is_some_and(|(subtype, bytes)| subtype == 4 && bytes.len() != 16),
            Fault::DbPointerNeedsNamespace => {
                element.as_db_pointer().is_some_and(|it| it.0.is_empty())
            }
            _ => element.key == b"$ref" && element.as_str() == Some(""),
        };
        if !any_value(original, &explains) {
            return Err(error.to_owned());
        }
        self.seen.insert(refused);
        Ok(())
    }

    /// Puts fields into the order in which the reader writes them.
    fn in_reading_order<'a>(&mut self, fields: Vec<Element<'a>>, top: bool) -> Vec<Element<'a>> {
        let mut sorted = fields.clone();
        let rank = |fault: Fault, name: &[u8]| match fault {
            Fault::IdFirst => usize::from(name != b"_id"),
            Fault::IndexesFirst => index(name).unwrap_or(usize::MAX),
            _ => [&b"$ref"[..], b"$id", b"$db"]
                .into_iter()
                .position(|it| it == name)
                .unwrap_or(3),
        };
        let faults = self.reader.faults();
        for fault in [Fault::DbRefOrder, Fault::IndexesFirst, Fault::IdFirst] {
            let applies = faults.contains(&fault)
                && match fault {
                    Fault::IdFirst => top,
                    Fault::DbRefOrder => is_reference(&fields),
                    _ => true,
                };
            if applies {
                let before: Vec<&[u8]> = sorted.iter().map(|it| it.key).collect();
                let mut after = sorted.clone();
                after.sort_by_key(|it| rank(fault, it.key));
                if self.ordered && before != after.iter().map(|it| it.key).collect::<Vec<_>>() {
                    self.seen.insert(fault);
                }
                sorted = after;
            }
        }
        if faults.contains(&Fault::DbRefNullDb) && is_reference(&fields) {
            let before = sorted.len();
            sorted.retain(|it| it.key != b"$db" || !it.is_null());
            if sorted.len() < before {
                self.seen.insert(Fault::DbRefNullDb);
            }
        }
        sorted
    }

    fn fields(&mut self, mut expected: Vec<Element<'_>>, mut read: Vec<Element<'_>>) -> Difference {
        if self.reader == Reader::Node && self.is_split_reference(&expected, &read) {
            self.seen.insert(Fault::DbRefSplit);
            return Ok(());
        }
        if !self.ordered {
            expected.sort_by_key(|it| it.key);
            read.sort_by_key(|it| it.key);
        }
        let names = |fields: &[Element<'_>]| -> Vec<String> {
            fields
                .iter()
                .map(|it| String::from_utf8_lossy(it.key).into_owned())
                .collect()
        };
        let (wanted, found) = (names(&expected), names(&read));
        if wanted != found {
            let is_escaped = wanted == ["shape", "\n"] && found == ["shape", "\\"];
            if self.reader != Reader::Node || !is_escaped {
                return Err(format!("fields {wanted:?} became {found:?}"));
            }
            self.seen.insert(Fault::EscapedName);
        }
        for (expected, read) in expected.iter().zip(&read) {
            self.value(expected, read)
                .map_err(|it| format!("{}.{it}", String::from_utf8_lossy(expected.key)))?;
        }
        Ok(())
    }

    fn value(&mut self, original: &Element<'_>, read: &Element<'_>) -> Difference {
        let differ = || Err(format!(" {original:?} became {read:?}"));
        if is_number(original) && is_number(read) {
            return if self.same_number(original, read) {
                Ok(())
            } else {
                differ()
            };
        }
        if original.kind != read.kind {
            return match self.other_type(original, read) {
                Some(fault) if self.reader.faults().contains(&fault) => {
                    self.seen.insert(fault);
                    Ok(())
                }
                _ => differ(),
            };
        }
        match original.kind {
            ElementType::EmbeddedDocument => {
                let expected = self.in_reading_order(fields(original.value), false);
                self.fields(expected, fields(read.value))
            }
            ElementType::Array => self.array(original, read),
            ElementType::JavaScriptCodeWithScope => {
                let (code, scope) = original.as_code_with_scope().expect("it is well-formed");
                let (read_code, read_scope) = read.as_code_with_scope().expect("it is well-formed");
                if code != read_code {
                    return differ();
                }
                let expected = self.in_reading_order(fields(scope), false);
                self.fields(expected, fields(read_scope))
            }
            ElementType::RegularExpression => {
                let (pattern, options) = original.as_regex().expect("it is well-formed");
                let (read_pattern, read_options) = read.as_regex().expect("it is well-formed");
                let mut options = options.to_vec();
                // Extended JSON has options in their order.
                options.sort_unstable();
                if options == b"z" && read_options.is_empty() && self.reader == Reader::Python {
                    self.seen.insert(Fault::RegexOptionsLost);
                    options.clear();
                }
                if pattern == read_pattern && options == read_options {
                    Ok(())
                } else {
                    differ()
                }
            }
            ElementType::DateTime if original.value != read.value => {
                const LAST: u64 = 8_640_000_000_000_000;
                let millis = original.as_datetime_millis().expect("it is well-formed");
                let is_known = self.reader == Reader::Node
                    && millis.unsigned_abs() > LAST
                    && read.as_datetime_millis() == Some(0);
                if !is_known {
                    return differ();
                }
                self.seen.insert(Fault::DateBeyondRange);
                Ok(())
            }
            _ if original.value == read.value => Ok(()),
            _ => differ(),
        }
    }

    fn array(&mut self, original: &Element<'_>, read: &Element<'_>) -> Difference {
        let (values, read) = (fields(original.value), fields(read.value));
        if values.len() != read.len() {
            return Err(format!(" {} values became {}", values.len(), read.len()));
        }
        for (index, (original, read)) in values.iter().zip(&read).enumerate() {
            self.value(original, read)
                .map_err(|it| format!("{index}.{it}"))?;
        }
        Ok(())
    }

    /// Canonical JSON keeps a number's type. Relaxed JSON tells doubles from integers, and integers of two sizes only
    /// by their values. The numbers of a `Struct` are all doubles, but for long integers.
    fn same_number(&mut self, original: &Element<'_>, read: &Element<'_>) -> bool {
        if original.as_f64().is_some_and(f64::is_nan) {
            return read.as_f64().is_some_and(f64::is_nan);
        }
        let same = original.kind == read.kind && original.value == read.value;
        let whole = |it: &Element<'_>| it.as_i32().map(i64::from).or(it.as_i64());
        match (self.format, whole(original), whole(read)) {
            (Format::CanonicalJson, ..) => same,
            (Format::Json, Some(original), Some(read)) => {
                let is_rounded = self.reader == Reader::Node
                    && original.unsigned_abs() > 1 << 53
                    && original as f64 == read as f64;
                if original != read && is_rounded {
                    self.seen.insert(Fault::IntegerRounded);
                }
                original == read || is_rounded
            }
            (Format::Json, None, Some(read)) if self.reader == Reader::Node => {
                self.seen.insert(Fault::WholeDoubleIsInteger);
                original.as_f64() == Some(read as f64)
            }
            (Format::Json, ..) => same,
            (Format::Struct, ..) => {
                // The bits, which tell 0 from -0.
                let double = |it: &Element<'_>| whole(it).map(|n| n as f64).or(it.as_f64());
                double(original).map(f64::to_bits) == double(read).map(f64::to_bits)
            }
        }
    }

    /// The fault that makes a value of one type one of another, if the values say the same.
    fn other_type(&self, original: &Element<'_>, read: &Element<'_>) -> Option<Fault> {
        match (original.kind, read.kind) {
            (ElementType::Undefined, ElementType::Null) => Some(Fault::UndefinedIsNull),
            (ElementType::Symbol, ElementType::String) if original.value == read.value => {
                Some(Fault::SymbolIsString)
            }
            (ElementType::DbPointer, ElementType::EmbeddedDocument) => {
                let (namespace, id) = original.as_db_pointer()?;
                let read = fields(read.value);
                let reference: Vec<&[u8]> = read.iter().map(|it| it.key).collect();
                let is_split = reference == [&b"$ref"[..], b"$id", b"$db"]
                    && joined(&read).as_bytes() == namespace;
                let is_whole = reference == [&b"$ref"[..], b"$id"]
                    && read[0].as_str().map(str::as_bytes) == Some(namespace);
                (read.get(1)?.as_object_id() == Some(id) && (is_whole || is_split))
                    .then_some(Fault::DbPointerIsDbRef)
            }
            _ => None,
        }
    }

    /// Whether `fs.files` became the collection `files` of the database `fs`.
    fn is_split_reference(&self, expected: &[Element<'_>], read: &[Element<'_>]) -> bool {
        let name = expected
            .first()
            .filter(|it| it.key == b"$ref")
            .and_then(Element::as_str);
        name.is_some_and(|it| it.split('.').count() == 2)
            && read.len() == 3
            && name == Some(&joined(read))
    }
}

/// The database and the collection of a DBRef, with a dot between them.
fn joined(reference: &[Element<'_>]) -> String {
    let text = |name: &[u8]| {
        let found = reference.iter().find(|it| it.key == name);
        found.and_then(Element::as_str).unwrap_or_default()
    };
    format!("{}.{}", text(b"$db"), text(b"$ref"))
}

/// Whether drivers make an object of their own of these fields.
fn is_reference(fields: &[Element<'_>]) -> bool {
    let find = |name: &[u8]| fields.iter().find(|it| it.key == name);
    find(b"$ref").is_some_and(|it| it.as_str().is_some()) && find(b"$id").is_some()
}

/// The index that JavaScript takes a name for.
fn index(name: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(name).ok()?;
    let index: u32 = text.parse().ok()?;
    (index.to_string() == text && index != u32::MAX).then_some(index as usize)
}

fn is_number(element: &Element<'_>) -> bool {
    matches!(
        element.kind,
        ElementType::Double | ElementType::Int32 | ElementType::Int64
    )
}

fn fields(document: &[u8]) -> Vec<Element<'_>> {
    let elements = Elements::new(document).expect("a reader writes BSON");
    elements
        .map(|it| it.expect("a reader writes BSON"))
        .collect()
}

fn any_value(document: &[u8], wanted: &dyn Fn(&Element<'_>) -> bool) -> bool {
    fields(document).iter().any(|element| {
        let inner = match element.kind {
            ElementType::EmbeddedDocument | ElementType::Array => Some(element.value),
            _ => element.as_code_with_scope().map(|it| it.1),
        };
        wanted(element) || inner.is_some_and(|inner| any_value(inner, wanted))
    })
}
