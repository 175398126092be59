//! Structured reading and writing of fuzz inputs.

/// A reader of an input from its start. Missing bytes are zero.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    pub fn number(&mut self) -> u32 {
        let mut number = [0; 4];
        let bytes = self.bytes(4);
        number[..bytes.len()].copy_from_slice(bytes);
        u32::from_le_bytes(number)
    }

    /// Returns at most `count` bytes.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        front
    }

    /// Returns bytes that are prefixed with their length in two bytes.
    pub fn part(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()) | usize::from(self.byte()) << 8;
        self.bytes(length)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends bytes in the form that [`Input::part`] reads.
pub fn put_part(out: &mut Vec<u8>, part: &[u8]) {
    let length = u16::try_from(part.len()).expect("a part is under 64 KiB");
    out.extend(length.to_le_bytes());
    out.extend(part);
}

/// Returns a document of raw elements, with a correct length.
pub fn document(elements: &[u8]) -> Vec<u8> {
    let length = u32::try_from(elements.len() + 5).expect("an input is small");
    let mut document = length.to_le_bytes().to_vec();
    document.extend(elements);
    document.push(0);
    document
}

/// Appends an element with any value bytes.
pub fn put_element(out: &mut Vec<u8>, kind: u8, key: &str, value: &[u8]) {
    out.push(kind);
    out.extend(key.bytes());
    out.push(0);
    out.extend(value);
}
