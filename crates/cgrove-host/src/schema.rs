//! The report as a JSON schema, for programs in other languages.
//!
//! It is made from the types and their comments, so it cannot say anything else than they do. Only
//! tests are built with it: one holds docs/report.schema.json to it, and real reports to that file.
//! An object may have fields that the schema does not name, since fields may be added under the
//! same version.

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema};
use serde_json::Value;

use crate::report::{Report, VERSION};

/// Of the report, by JSON Schema's draft 2020-12.
pub fn report() -> Value {
    of::<Report>(&format!("cgrove report, version {VERSION}"))
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
