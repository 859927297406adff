//! How a struct maps to columns: their names and types, its values out, and itself back in, the same for statements and
//! for COPY. It knows no table and no SQL. Users implement [`Row`], by hand or with [`row!`](crate::row).

use bytes::{BufMut as _, BytesMut};
use postgres_types::{FromSql, IsNull, Kind, ToSql, Type};

/// The longest field that Postgres takes: 1 GiB less a byte.
const FIELD_BYTES_MAX: usize = (1 << 30) - 1;

/// A struct that maps to columns of a table.
///
/// ```
/// use paystrata_db::{Column, FieldError, FieldReader, FieldWriter, Row, Type};
///
/// struct City {
///     id: i64,
///     name: String,
/// }
///
/// impl Row for City {
///     const COLUMNS: &'static [Column] =
///         &[Column::new("id", Type::INT8), Column::new("name", Type::TEXT)];
///
///     fn write(&self, fields: &mut FieldWriter<'_>) -> Result<(), FieldError> {
///         fields.put(&self.id)?;
///         fields.put(&self.name)
///     }
///
///     fn read(fields: &mut FieldReader<'_>) -> Result<Self, FieldError> {
///         Ok(Self { id: fields.take()?, name: fields.take()? })
///     }
/// }
/// ```
///
/// [`row!`](crate::row) writes that impl for a struct whose fields are named like its columns.
pub trait Row: Sized {
    /// The columns, in the order in which `write` puts and `read` takes their fields. An enum's column is declared as `TEXT`.
    const COLUMNS: &'static [Column];

    /// Puts one field per column, in their order.
    ///
    /// # Errors
    /// Those of [`FieldWriter::put`], to be passed on.
    fn write(&self, fields: &mut FieldWriter<'_>) -> Result<(), FieldError>;

    /// Takes one field per column, in their order.
    ///
    /// # Errors
    /// Those of [`FieldReader::take`], to be passed on.
    fn read(fields: &mut FieldReader<'_>) -> Result<Self, FieldError>;

    /// Reads a row that a query gave; its columns may stand in any order, and there may be others.
    ///
    /// # Errors
    /// [`FieldError`] with the column that is missing or holds something else.
    fn from_row(row: &tokio_postgres::Row) -> Result<Self, FieldError> {
        Self::read(&mut FieldReader { columns: Self::COLUMNS, next: 0, source: Source::Query(row) })
    }
}

/// Implements [`Row`](crate::Row) for a struct whose fields are named like their columns; types are those of [`Type`].
///
/// ```
/// struct City {
///     id: i64,
///     name: Option<String>,
/// }
///
/// paystrata_db::row!(City { id: INT8, name: TEXT });
/// ```
#[macro_export]
macro_rules! row {
    ($row:ident { $($field:ident: $type:ident),+ $(,)? }) => {
        impl $crate::Row for $row {
            const COLUMNS: &'static [$crate::Column] =
                &[$($crate::Column::of_field(stringify!($field), $crate::Type::$type)),+];

            fn write(
                &self,
                fields: &mut $crate::FieldWriter<'_>,
            ) -> ::std::result::Result<(), $crate::FieldError> {
                $(fields.put(&self.$field)?;)+
                Ok(())
            }

            fn read(
                fields: &mut $crate::FieldReader<'_>,
            ) -> ::std::result::Result<Self, $crate::FieldError> {
                Ok(Self { $($field: fields.take()?),+ })
            }
        }
    };
}

/// A column's name and the type in which its values travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    name: &'static str,
    value_type: Type,
}

impl Column {
    /// A column; meant for a `const`.
    #[must_use]
    pub const fn new(name: &'static str, value_type: Type) -> Self {
        Self { name, value_type }
    }

    /// The column of a field, which may be a raw identifier (`r#type`); meant for a `const`.
    #[must_use]
    pub const fn of_field(field: &'static str, value_type: Type) -> Self {
        let bytes = field.as_bytes();
        let is_raw = bytes.len() > 2 && bytes[0] == b'r' && bytes[1] == b'#';
        let name = if is_raw { field.split_at(2).1 } else { field };
        Self { name, value_type }
    }

    /// Its name, as the catalog has it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The type of its values.
    #[must_use]
    pub const fn value_type(&self) -> &Type {
        &self.value_type
    }
}

/// A field that cannot be written or read. It holds no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {problem}")]
pub struct FieldError {
    /// The column.
    pub column: &'static str,
    /// What is wrong.
    pub problem: FieldProblem,
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldProblem {
    /// Postgres keeps no text with a NUL character.
    #[error("the text contains a NUL character")]
    Nul,
    /// The value's own conversion refused it.
    #[error("the value cannot be encoded")]
    NotEncodable,
    /// Longer than a field may be.
    #[error("the value is longer than 1 GiB")]
    TooLong,
    /// The Rust type does not fit the column's declared type: a fault of the `Row`.
    #[error("the field's Rust type does not fit the declared type")]
    WrongType,
    /// `Row::write` or `Row::read` handles another number of fields than there are columns: a fault of the `Row`.
    #[error("the row handles another number of fields than it declares")]
    WrongCount,
    /// What was read is NULL where the Rust type has none, or its conversion refused it.
    #[error("the value cannot be decoded")]
    NotDecodable,
    /// A query's row has no such column.
    #[error("the query gave no such column")]
    Absent,
}

impl FieldProblem {
    /// It is this row's alone: others may be fine.
    pub(super) fn is_of_one_row(self) -> bool {
        matches!(self, Self::Nul | Self::NotEncodable | Self::TooLong)
    }
}

/// Takes the fields of one row, in the order of its columns.
#[derive(Debug)]
pub struct FieldWriter<'a> {
    pub(super) columns: &'static [Column],
    pub(super) next: usize,
    /// Each field as a length and its bytes: what COPY and arrays have in common.
    pub(super) buffer: &'a mut BytesMut,
}

impl FieldWriter<'_> {
    /// Puts the next field.
    ///
    /// # Errors
    /// [`FieldError`] when the value cannot be sent; nothing of the row will be.
    #[inline]
    pub fn put<T: ToSql>(&mut self, value: &T) -> Result<(), FieldError> {
        let Some(column) = self.columns.get(self.next) else {
            return Err(FieldError { column: last(self.columns), problem: FieldProblem::WrongCount });
        };
        let refused = |problem| Err(FieldError { column: column.name, problem });
        if !T::accepts(&column.value_type) {
            return refused(FieldProblem::WrongType);
        }
        self.next += 1;
        let start = self.buffer.len();
        self.buffer.put_i32(-1);
        match value.to_sql(&column.value_type, self.buffer) {
            Err(_) => return refused(FieldProblem::NotEncodable),
            // Whatever a conversion wrote before it said NULL is no part of the row.
            Ok(IsNull::Yes) => self.buffer.truncate(start + 4),
            Ok(IsNull::No) => {
                let bytes = &self.buffer[start + 4..];
                if is_text(&column.value_type) && bytes.contains(&0) {
                    return refused(FieldProblem::Nul);
                }
                match i32::try_from(bytes.len()) {
                    Ok(length) if bytes.len() <= FIELD_BYTES_MAX => {
                        self.buffer[start..start + 4].copy_from_slice(&length.to_be_bytes());
                    }
                    _ => return refused(FieldProblem::TooLong),
                }
            }
        }
        Ok(())
    }
}

/// Types whose bytes are text as it is.
fn is_text(value_type: &Type) -> bool {
    [Type::TEXT, Type::VARCHAR, Type::BPCHAR, Type::NAME, Type::JSON, Type::XML].contains(value_type)
}

fn last(columns: &'static [Column]) -> &'static str {
    columns.last().map_or("", Column::name)
}

/// Gives the fields of one row, in the order of its columns.
#[derive(Debug)]
pub struct FieldReader<'a> {
    columns: &'static [Column],
    next: usize,
    source: Source<'a>,
}

#[derive(Debug)]
enum Source<'a> {
    /// Found by name.
    Query(&'a tokio_postgres::Row),
    /// What is left of a row's bytes.
    Copy(&'a [u8]),
}

impl<'a> FieldReader<'a> {
    pub(super) fn of_copy(columns: &'static [Column], fields: &'a [u8]) -> Self {
        Self { columns, next: 0, source: Source::Copy(fields) }
    }

    /// Every field was taken.
    pub(super) fn is_done(&self) -> bool {
        self.next == self.columns.len() && matches!(self.source, Source::Query(_) | Source::Copy([]))
    }

    /// Takes the next field.
    ///
    /// # Errors
    /// [`FieldError`] when there is none, or it holds something else.
    pub fn take<T: FromSql<'a>>(&mut self) -> Result<T, FieldError> {
        let Some(column) = self.columns.get(self.next) else {
            return Err(FieldError { column: last(self.columns), problem: FieldProblem::WrongCount });
        };
        let refused = |problem| FieldError { column: column.name, problem };
        self.next += 1;
        match &mut self.source {
            Source::Query(row) => {
                let index = row.columns().iter().position(|found| found.name() == column.name);
                let index = index.ok_or_else(|| refused(FieldProblem::Absent))?;
                let found = row.columns()[index].type_();
                if !T::accepts(found) && Label::accepts(found) {
                    // An enum's bytes are its label, those of json its text, which is what COPY gives too.
                    let Label(label) = row.try_get(index).map_err(|_| refused(FieldProblem::NotDecodable))?;
                    let value = T::from_sql_nullable(&column.value_type, label);
                    return value.map_err(|_| refused(FieldProblem::NotDecodable));
                }
                row.try_get(index).map_err(|_| refused(FieldProblem::NotDecodable))
            }
            Source::Copy(rest) => {
                if !T::accepts(&column.value_type) {
                    return Err(refused(FieldProblem::WrongType));
                }
                let field = next_field(rest).ok_or_else(|| refused(FieldProblem::NotDecodable))?;
                let value = T::from_sql_nullable(&column.value_type, field);
                value.map_err(|_| refused(FieldProblem::NotDecodable))
            }
        }
    }
}

/// The bytes of an enum, or of json, as they came.
struct Label<'a>(Option<&'a [u8]>);

impl<'a> FromSql<'a> for Label<'a> {
    fn from_sql(_: &Type, bytes: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(Some(bytes)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(None))
    }

    fn accepts(found: &Type) -> bool {
        matches!(found.kind(), Kind::Enum(_)) || *found == Type::JSON
    }
}

/// Splits off one field: its bytes, or NULL. Nothing when the bytes are cut short.
pub(super) fn next_field<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let length = i32::from_be_bytes(*length);
    let Ok(length) = usize::try_from(length) else {
        *rest = after;
        return Some(None);
    };
    let (field, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(Some(field))
}
