//! The files of the API and the symbols that each of them declares.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// Finds the encoded descriptor of a file by its name and by the symbols that it declares.
#[derive(Debug, Default)]
pub struct ReflectionIndex {
    files: HashMap<String, Bytes>,
    /// The file of each fully qualified symbol, without a leading dot.
    symbols: BTreeMap<String, Bytes>,
    messages: BTreeSet<String>,
    services: BTreeSet<String>,
}

impl ReflectionIndex {
    /// Creates an index of the files in encoded `FileDescriptorSet`s. A file that several sets contain is
    /// taken once.
    ///
    /// # Errors
    /// The bytes are no `FileDescriptorSet`.
    pub fn new(sets: &[&[u8]]) -> Result<Self, prost::DecodeError> {
        let mut index = Self::default();
        for set in sets {
            for file in FileDescriptorSet::decode(*set)?.file {
                index.add(&file);
            }
        }
        Ok(index)
    }

    /// Returns the encoded descriptor of a file.
    pub(super) fn file(&self, name: &str) -> Option<&Bytes> {
        self.files.get(name)
    }

    /// Returns the encoded descriptor of the file that declares a symbol.
    pub(super) fn file_of_symbol(&self, name: &str) -> Option<&Bytes> {
        self.symbols.get(name)
    }

    /// Returns whether there is such a message.
    pub(super) fn has_message(&self, name: &str) -> bool {
        self.messages.contains(name)
    }

    /// Returns the names of all services, in order.
    pub(super) fn services(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(String::as_str)
    }

    fn add(&mut self, file: &FileDescriptorProto) {
        if self.files.contains_key(file.name()) {
            return;
        }
        let bytes = Bytes::from(file.encode_to_vec());
        self.files.insert(file.name().to_owned(), bytes.clone());
        let package = file.package();
        for message in &file.message_type {
            self.add_message(package, message, &bytes);
        }
        for declared in &file.enum_type {
            self.add_enum(package, declared, &bytes);
        }
        for service in &file.service {
            let name = within(package, service.name());
            for method in &service.method {
                self.symbols
                    .insert(within(&name, method.name()), bytes.clone());
            }
            self.services.insert(name.clone());
            self.symbols.insert(name, bytes.clone());
        }
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto, file: &Bytes) {
        let name = within(scope, message.name());
        for nested in &message.nested_type {
            self.add_message(&name, nested, file);
        }
        for declared in &message.enum_type {
            self.add_enum(&name, declared, file);
        }
        let fields = message.field.iter().map(|field| field.name());
        let oneofs = message.oneof_decl.iter().map(|oneof| oneof.name());
        for member in fields.chain(oneofs) {
            self.symbols.insert(within(&name, member), file.clone());
        }
        self.messages.insert(name.clone());
        self.symbols.insert(name, file.clone());
    }

    /// Adds an enum and its values. A value is a symbol of the scope around its enum, as in C++.
    fn add_enum(&mut self, scope: &str, declared: &EnumDescriptorProto, file: &Bytes) {
        for value in &declared.value {
            self.symbols
                .insert(within(scope, value.name()), file.clone());
        }
        self.symbols
            .insert(within(scope, declared.name()), file.clone());
    }
}

fn within(scope: &str, name: &str) -> String {
    if scope.is_empty() {
        return name.to_owned();
    }
    format!("{scope}.{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_package_is_indexed_and_nested_names_are_qualified() {
        let inner = DescriptorProto {
            name: Some("Inner".to_owned()),
            ..DescriptorProto::default()
        };
        let outer = DescriptorProto {
            name: Some("Outer".to_owned()),
            nested_type: vec![inner],
            ..DescriptorProto::default()
        };
        let file = FileDescriptorProto {
            name: Some("a.proto".to_owned()),
            message_type: vec![outer],
            ..FileDescriptorProto::default()
        };
        let set = FileDescriptorSet {
            file: vec![file.clone(), file],
        }
        .encode_to_vec();
        let index = ReflectionIndex::new(&[&set, &set]).unwrap();
        assert!(index.has_message("Outer.Inner"));
        assert!(!index.has_message("Inner"));
        assert_eq!(index.file_of_symbol("Outer"), index.file("a.proto"));
        assert!(ReflectionIndex::new(&[b"\xff"]).is_err());
    }
}
