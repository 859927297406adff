//! `section!`: one declaration gives a struct with its documentation, the rows of the table, and the reader.
//!
//! Refuses to let the three drift: a field without a row, or a row that no field reads, cannot be written.

/// Declares a section. Each field reads
/// `/// meaning` then `field: Type = "key" kind, default;`
/// and the section's name is put before the key.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident = $prefix:literal {
            $( $(#[doc = $meaning:literal])+ $field:ident: $type:ty = $key:literal $kind:expr, $default:expr; )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone)]
        pub struct $name {
            $( $(#[doc = $meaning])+ pub $field: $type, )+
        }

        impl $name {
            pub(crate) const SECTION: $crate::config::setting::Section = $crate::config::setting::Section {
                name: $prefix,
                about: concat!($($about),+),
                settings: &[$(
                    $crate::config::setting::Setting {
                        key: concat!($prefix, ".", $key),
                        kind: $kind,
                        default: $default,
                        meaning: concat!($($meaning),+),
                    },
                )+],
            };

            pub(crate) fn read(values: &$crate::config::checked::Checked) -> Self {
                Self { $( $field: values.take(concat!($prefix, ".", $key)), )+ }
            }
        }
    };
}
