//! XML as JSON: attributes become `@name`, text `#text`, repeated elements lists; an element that
//! holds nothing but text becomes that text. Entities of document types are never resolved.

use flowline_sdk::prelude::*;
use quick_xml::{
    Reader, XmlVersion,
    escape::resolve_predefined_entity,
    events::{BytesRef, BytesStart, Event},
};
use serde_json::Map;

use super::body::add;

/// The deepest nesting of elements.
const DEEPEST: usize = 100;

/// An element whose end has not come yet.
struct Element {
    name: String,
    fields: Map<String, Value>,
    text: String,
}

impl Element {
    fn begin(start: &BytesStart<'_>) -> Result<Self, String> {
        let mut fields = Map::new();
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| error.to_string())?;
            let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| error.to_string())?;
            fields.insert(format!("@{}", attribute.key.as_ref()), Value::String(value.into_owned()));
        }
        Ok(Self { name: start.name().as_ref().to_owned(), fields, text: String::new() })
    }

    fn end(mut self) -> (String, Value) {
        let text = self.text.trim();
        if self.fields.is_empty() {
            return (self.name, Value::String(text.to_owned()));
        }
        if !text.is_empty() {
            self.fields.insert("#text".to_owned(), Value::String(text.to_owned()));
        }
        (self.name, Value::Object(self.fields))
    }
}

/// Elements on the way down, and what is complete.
#[derive(Default)]
struct Tree {
    open: Vec<Element>,
    root: Map<String, Value>,
}

impl Tree {
    fn begin(&mut self, start: &BytesStart<'_>) -> Result<(), String> {
        if self.open.is_empty() && !self.root.is_empty() {
            return Err("there is more than one root element".to_owned());
        }
        if self.open.len() >= DEEPEST {
            return Err(format!("its elements are nested deeper than {DEEPEST}"));
        }
        self.open.push(Element::begin(start)?);
        Ok(())
    }

    fn end(&mut self) {
        let Some((name, value)) = self.open.pop().map(Element::end) else { return };
        match self.open.last_mut() {
            Some(parent) => add(&mut parent.fields, name, value),
            None => add(&mut self.root, name, value),
        }
    }

    fn text(&mut self, text: &str) -> Result<(), String> {
        match self.open.last_mut() {
            Some(element) => element.text.push_str(text),
            None if text.trim().is_empty() => {}
            None => return Err("there is text outside the root element".to_owned()),
        }
        Ok(())
    }

    fn finish(self) -> Result<Value, String> {
        match self.open.last() {
            Some(element) => Err(format!("`<{}>` is not closed", element.name)),
            None if self.root.is_empty() => Err("there is no element".to_owned()),
            None => Ok(Value::Object(self.root)),
        }
    }
}

/// An XML document as JSON, or why it is none.
pub(super) fn to_json(text: &str) -> Result<Value, String> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut tree = Tree::default();
    loop {
        match reader.read_event() {
            Ok(Event::Start(start)) => tree.begin(&start)?,
            Ok(Event::End(_)) => tree.end(),
            Ok(Event::Text(text)) => tree.text(&text.xml10_content())?,
            Ok(Event::CData(text)) => tree.text(&text.xml10_content())?,
            Ok(Event::GeneralRef(reference)) => tree.text(&resolve(&reference)?)?,
            Ok(Event::Eof) => return tree.finish(),
            Ok(Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_)) => {}
            Err(error) => return Err(format!("{error}, at byte {}", reader.error_position())),
        }
    }
}

/// What a reference stands for: a character by number, or one of the five that XML knows itself.
fn resolve(reference: &BytesRef<'_>) -> Result<String, String> {
    if let Some(character) = reference.resolve_char_ref().map_err(|error| error.to_string())? {
        return Ok(character.to_string());
    }
    let name = reference.xml10_content();
    resolve_predefined_entity(&name).map(str::to_owned).ok_or_else(|| format!("the entity `&{name};` is not known"))
}

/// The encoding that a document declares for itself in its first bytes.
pub(super) fn declared_encoding(bytes: &[u8]) -> Option<String> {
    const LONGEST_DECLARATION: usize = 256;
    let beginning = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST_DECLARATION)]);
    match Reader::from_str(&beginning).read_event() {
        Ok(Event::Decl(declaration)) => Some(declaration.encoding()?.ok()?.into_owned()),
        _ => None,
    }
}
