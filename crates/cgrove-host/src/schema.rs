//! The report, and a line of events, as JSON schemas, for programs in other languages.
//!
//! They are made from the types and their comments, so they cannot say anything else than those do.
//! Only tests are built with this: one holds docs/*.schema.json to it, and real reports and events to
//! those files.
//! An object may have fields that the schema does not name, since fields may be added under the
//! same version.

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema};
use serde_json::Value;

use crate::journal::{self, Happening};
use crate::report::{Report, VERSION};

/// Of the report, by JSON Schema's draft 2020-12.
pub fn report() -> Value {
    of::<Report>(&format!("cgrove report, version {VERSION}"))
}

/// Of a line of events.
pub fn events() -> Value {
    of::<Happening>(&format!("a line of cgrove events, version {}", journal::VERSION))
}

fn of<T: JsonSchema>(title: &str) -> Value {
    // As it is written: what is left out now and then is optional, all else is there.
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    RecursiveTransform(plain_words).transform(&mut schema);
    schema.insert("title".to_owned(), title.into());
    schema.to_value()
}

/// Comments are for rustdoc, and link to items: ``[`Memory`]``.
fn plain_words(schema: &mut Schema) {
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace("[`", "`").replace("`]", "`").replace('\n', " ");
    }
}
