//! Rows as bytes, in the form of binary COPY: a chunk of them is kept once, and any part of it can be sent by COPY, as
//! parameters or as arrays. It sends nothing itself. Filled by `reader`, sent by `send`.

use std::ops::Range;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::error::Rejected;
use super::row::{Column, FieldError, FieldProblem, FieldWriter, Row, next_field};

/// How a binary COPY begins: signature, flags, and the length of a header extension.
pub(super) const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// How it ends.
pub(super) const COPY_TRAILER: &[u8] = &[0xff, 0xff];

/// What stands before a row's own fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leading {
    Nothing,
    /// The row's place in the input, for a staging table.
    Place,
}

/// One encoded row.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Its place in the input.
    place: u64,
    /// Where its bytes end.
    end: usize,
}

/// Collects rows until they make a chunk.
#[derive(Debug)]
pub(super) struct Encoder {
    columns: &'static [Column],
    leading: Leading,
    buffer: BytesMut,
    marks: Vec<Mark>,
}

impl Encoder {
    pub(super) fn new(columns: &'static [Column], leading: Leading) -> Self {
        Self { columns, leading, buffer: BytesMut::new(), marks: Vec::new() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Encodes one row; a row that cannot be sent leaves nothing behind.
    pub(super) fn push<R: Row>(&mut self, row: &R, place: u64) -> Result<(), FieldError> {
        let start = self.buffer.len();
        let leading = usize::from(self.leading == Leading::Place);
        let count = i16::try_from(self.columns.len() + leading).expect("a table has at most 1600 columns");
        self.buffer.put_i16(count);
        if self.leading == Leading::Place {
            self.buffer.put_i32(8);
            self.buffer.put_u64(place);
        }
        let mut fields = FieldWriter { columns: self.columns, next: 0, buffer: &mut self.buffer };
        let written = row.write(&mut fields);
        let missing = self.columns.get(fields.next);
        let written = match (written, missing) {
            (Ok(()), Some(column)) => {
                Err(FieldError { column: column.name(), problem: FieldProblem::WrongCount })
            }
            (written, _) => written,
        };
        match written {
            Ok(()) => self.marks.push(Mark { place, end: self.buffer.len() }),
            Err(_) => self.buffer.truncate(start),
        }
        written
    }

    /// Takes out what was collected. The next chunk will be about as large, so its room is made at once.
    pub(super) fn finish(&mut self, places: Range<u64>, refused: Vec<Rejected>) -> Chunk {
        let next = Self {
            columns: self.columns,
            leading: self.leading,
            buffer: BytesMut::with_capacity(self.buffer.len()),
            marks: Vec::with_capacity(self.marks.len()),
        };
        let Self { leading, buffer, marks, .. } = std::mem::replace(self, next);
        Chunk { bytes: buffer.freeze(), marks, leading, places, refused }
    }
}

/// Encoded rows that are committed together.
#[derive(Debug)]
pub(super) struct Chunk {
    bytes: Bytes,
    marks: Vec<Mark>,
    leading: Leading,
    /// The part of the input it stands for, refused rows included.
    pub(super) places: Range<u64>,
    /// Rows that could not be encoded.
    pub(super) refused: Vec<Rejected>,
}

impl Chunk {
    /// Rows that can be sent.
    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// A row's place in the input.
    pub(super) fn place(&self, row: usize) -> u64 {
        self.marks[row].place
    }

    /// Which row has a place in the input; none when it could not be encoded.
    pub(super) fn row_of(&self, place: u64) -> Option<usize> {
        self.marks.binary_search_by_key(&place, |mark| mark.place).ok()
    }

    /// The bytes of some rows, without header and trailer.
    pub(super) fn rows(&self, rows: Range<usize>) -> Bytes {
        if rows.is_empty() {
            return Bytes::new();
        }
        self.bytes.slice(self.start(rows.start)..self.marks[rows.end - 1].end)
    }

    /// Some of its rows, copied into a chunk of their own.
    pub(super) fn only(&self, rows: &[usize]) -> Self {
        let (mut bytes, mut marks) = (BytesMut::new(), Vec::with_capacity(rows.len()));
        for row in rows {
            bytes.put_slice(&self.rows(*row..*row + 1));
            marks.push(Mark { place: self.place(*row), end: bytes.len() });
        }
        let (leading, places) = (self.leading, self.places.clone());
        Self { bytes: bytes.freeze(), marks, leading, places, refused: Vec::new() }
    }

    /// One row's own fields, in the order of its columns.
    pub(super) fn fields(&self, row: usize) -> impl Iterator<Item = Option<&[u8]>> {
        // A count of two bytes, and perhaps a place with its length.
        let own = self.start(row) + if self.leading == Leading::Place { 2 + 4 + 8 } else { 2 };
        let mut rest = &self.bytes[own..self.marks[row].end];
        std::iter::from_fn(move || next_field(&mut rest))
    }

    fn start(&self, row: usize) -> usize {
        row.checked_sub(1).map_or(0, |before| self.marks[before].end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair {
        number: i32,
        text: Option<&'static str>,
    }

    impl Row for Pair {
        const COLUMNS: &'static [Column] = &[
            Column::new("number", postgres_types::Type::INT4),
            Column::new("text", postgres_types::Type::TEXT),
        ];

        fn write(&self, fields: &mut FieldWriter<'_>) -> Result<(), FieldError> {
            fields.put(&self.number)?;
            if self.number != 99 {
                fields.put(&self.text)?;
            }
            Ok(())
        }

        fn read(_: &mut super::super::row::FieldReader<'_>) -> Result<Self, FieldError> {
            Err(FieldError { column: "number", problem: FieldProblem::Absent })
        }
    }

    fn push(encoder: &mut Encoder, number: i32, text: Option<&'static str>) -> Result<(), FieldProblem> {
        let place = u64::from(number.unsigned_abs());
        encoder.push(&Pair { number, text }, place).map_err(|error| error.problem)
    }

    #[test]
    fn rows_have_the_form_of_binary_copy_and_can_be_taken_apart() {
        for leading in [Leading::Nothing, Leading::Place] {
            let mut encoder = Encoder::new(Pair::COLUMNS, leading);
            assert_eq!(push(&mut encoder, 7, Some("ab")), Ok(()));
            assert_eq!(push(&mut encoder, 8, None), Ok(()));
            let chunk = encoder.finish(7..9, Vec::new());
            let fields: Vec<Vec<Option<&[u8]>>> = (0..2).map(|row| chunk.fields(row).collect()).collect();
            let numbers = [7_i32.to_be_bytes(), 8_i32.to_be_bytes()];
            assert_eq!(fields[0], [Some(&numbers[0][..]), Some(b"ab")]);
            assert_eq!(fields[1], [Some(&numbers[1][..]), None]);
            assert_eq!([chunk.place(0), chunk.place(1)], [7, 8]);
            assert_eq!([chunk.rows(0..1), chunk.rows(1..2)].concat(), chunk.rows(0..2));
            let second = chunk.only(&[1]);
            assert_eq!((second.len(), second.place(0), second.rows(0..1)), (1, 8, chunk.rows(1..2)));
            if leading == Leading::Nothing {
                let first = [&[0, 2, 0, 0, 0, 4][..], &numbers[0], &[0, 0, 0, 2], b"ab"].concat();
                assert_eq!(chunk.rows(0..1), first);
            }
        }
    }

    #[test]
    fn a_row_that_cannot_be_sent_leaves_nothing_and_its_column_is_named() {
        let mut encoder = Encoder::new(Pair::COLUMNS, Leading::Nothing);
        assert_eq!(push(&mut encoder, 1, Some("a\0b")), Err(FieldProblem::Nul));
        assert_eq!(push(&mut encoder, 99, None), Err(FieldProblem::WrongCount));
        let error = encoder.push(&Pair { number: 1, text: Some("\0") }, 0).expect_err("NUL in a text");
        assert_eq!(error.column, "text");
        assert_eq!((encoder.bytes(), encoder.finish(0..3, Vec::new()).len()), (0, 0));
    }
}
