//! The schemas of bodies.

use std::fmt;

use serde_json::{Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::http::page::LIMIT_MAX;

pub(super) type Schemas = Vec<(String, RefOr<Schema>)>;

/// The schema of a body.
#[derive(Clone, Copy)]
pub enum Shape {
    /// A wire type: a component.
    Of(fn(&mut Schemas) -> String),
    /// A page of a wire type.
    PageOf(fn(&mut Schemas) -> String),
    /// An object of another standard.
    Any,
    /// Text of its own media type.
    Text,
    /// What is no text.
    Bytes,
    /// Bytes as text.
    Base64,
    /// A schema of its own, of a standard's format.
    Own(fn() -> Value),
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Of(_) => "Of",
            Self::PageOf(_) => "PageOf",
            Self::Any => "Any",
            Self::Text => "Text",
            Self::Bytes => "Bytes",
            Self::Base64 => "Base64",
            Self::Own(_) => "Own",
        })
    }
}

impl Shape {
    pub fn of<T: ToSchema>() -> Self {
        Self::Of(component::<T>)
    }

    pub fn page_of<T: ToSchema>() -> Self {
        Self::PageOf(component::<T>)
    }

    pub(super) fn schema(self, schemas: &mut Schemas) -> Value {
        match self {
            Self::Of(component) => reference(&component(schemas)),
            Self::PageOf(component) => json!({
                "type": "object",
                "required": ["items", "next"],
                "properties": {
                    "items": {"type": "array", "items": reference(&component(schemas)), "maxItems": LIMIT_MAX},
                    "next": {"type": ["string", "null"], "description": "The cursor of the next page."},
                },
            }),
            Self::Any => json!({"type": "object"}),
            Self::Text => json!({"type": "string"}),
            // The media type says it all (OpenAPI 3.1, 4.8.14.3).
            Self::Bytes => json!({}),
            Self::Base64 => json!({"type": "string", "contentEncoding": "base64"}),
            Self::Own(schema) => schema(),
        }
    }

    /// `known`: by the name of the component.
    pub(super) fn example(self, known: &Value, schemas: &mut Schemas) -> Option<Value> {
        match self {
            Self::Of(component) => known.get(component(schemas)).cloned(),
            Self::PageOf(component) => Some(json!({"items": [known.get(component(schemas))?], "next": null})),
            Self::Any => Some(json!({"openapi": "3.1.0"})),
            Self::Text | Self::Bytes | Self::Base64 | Self::Own(_) => None,
        }
    }
}

pub(super) fn component<T: ToSchema>(schemas: &mut Schemas) -> String {
    let name = T::name().into_owned();
    if !schemas.iter().any(|(known, _)| *known == name) {
        schemas.push((name.clone(), <T as PartialSchema>::schema()));
        T::schemas(schemas);
    }
    name
}

pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}
