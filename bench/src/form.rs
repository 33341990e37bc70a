//! The work: a registration form of about one KiB, and the contact it is mapped to. Both follow
//! from a number, so whoever receives a contact can tell whether it is right.

use std::fmt::Write as _;

use chrono::DateTime;
use serde::{Deserialize, Serialize};

/// A registration form with order lines, as a web site sends it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Form {
    registration: u64,
    first_name: String,
    last_name: String,
    email_address: String,
    phone_number: String,
    street_address: String,
    postal_code: String,
    city_name: String,
    country_code: String,
    company_name: String,
    comment: String,
    submitted_at: i64,
    lines: Vec<Line>,
}

/// A line of the order; the price is in cents, so that sums are exact.
#[derive(Serialize, Deserialize)]
struct Line {
    sku: String,
    title: String,
    quantity: u64,
    price: u64,
}

/// What the form is mapped to: eight fields renamed, the names joined, the lines summed, the
/// date written for people.
#[derive(Serialize, Deserialize, PartialEq)]
pub(crate) struct Contact {
    /// The form's number.
    pub(crate) id: u64,
    name: String,
    email: String,
    phone: String,
    street: String,
    zip: String,
    city: String,
    country: String,
    company: String,
    note: String,
    total: u64,
    submitted: String,
}

const FIRST: [&str; 5] = ["Ada", "Grace", "Alan", "Edsger", "Barbara"];
const LAST: [&str; 7] = ["Lovelace", "Hopper", "Turing", "Dijkstra", "Liskov", "Knuth", "Hamilton"];
const COMMENT: &str = "We would like to hear more about delivery times and about prices for larger orders; \
    please call in the morning, and send the catalogue to our address. We move in spring, so nothing \
    should arrive at the new address before the end of March.";

impl Form {
    /// The form with this number.
    pub(crate) fn numbered(number: u64) -> Self {
        let pick =
            |names: &[&str], number: u64| names[usize::try_from(number).unwrap_or_default() % names.len()].to_owned();
        let (first_name, last_name) = (pick(&FIRST, number), pick(&LAST, number));
        let lines = (0..5).map(|line| Line {
            sku: format!("SKU-{:05}", (number * 7 + line) % 100_000),
            title: format!("Registration module number {line}"),
            quantity: 1 + (number + line) % 9,
            price: 995 + (number * 13 + line * 100) % 5_000,
        });
        Self {
            registration: number,
            email_address: format!("{first_name}.{last_name}.{number}@example.com"),
            phone_number: format!("+49 30 {:08}", number % 100_000_000),
            street_address: format!("Long Street {}", number % 500),
            postal_code: format!("{:05}", number % 100_000),
            city_name: "Berlin".into(),
            country_code: "DE".into(),
            company_name: format!("Example Works {}", number % 1_000),
            comment: COMMENT.into(),
            submitted_at: 1_790_000_000_000 + i64::try_from(number % 1_000_000).unwrap_or_default() * 60_000,
            lines: lines.collect(),
            first_name,
            last_name,
        }
    }

    /// The mapping written in Rust, which the floor uses and the sink compares with.
    pub(crate) fn into_contact(self) -> Contact {
        let submitted = DateTime::from_timestamp_millis(self.submitted_at).unwrap_or_default();
        Contact {
            id: self.registration,
            name: format!("{} {}", self.first_name, self.last_name),
            email: self.email_address,
            phone: self.phone_number,
            street: self.street_address,
            zip: self.postal_code,
            city: self.city_name,
            country: self.country_code,
            company: self.company_name,
            note: self.comment,
            total: self.lines.iter().map(|line| line.quantity * line.price).sum(),
            submitted: submitted.format("%d.%m.%Y").to_string(),
        }
    }
}

impl Contact {
    /// Whether this is what the form with the contact's number is mapped to.
    pub(crate) fn is_right(&self) -> bool {
        *self == Form::numbered(self.id).into_contact()
    }
}

/// The flow that does the same mapping and posts the contact to `url`.
pub(crate) fn flow(name: &str, url: &str) -> String {
    let renamed = [
        ("email", "email_address"),
        ("phone", "phone_number"),
        ("street", "street_address"),
        ("zip", "postal_code"),
        ("city", "city_name"),
        ("country", "country_code"),
        ("company", "company_name"),
        ("note", "comment"),
    ];
    let mut map = String::new();
    for (to, from) in renamed {
        // Writing into a String cannot fail.
        let _ = writeln!(map, "        {to}: '{{{{ {from} }}}}'");
    }
    format!(
        "name: {name}
steps:
  form: {{ use: webhook.receive }}
  contact:
    use: transform.map
    after: form
    with:
      map:
        id: '{{{{ registration }}}}'
        name: '{{{{ first_name & \" \" & last_name }}}}'
{map}        total: '{{{{ $sum(lines.(quantity * price)) }}}}'
        submitted: '{{{{ $fromMillis(submitted_at, \"[D01].[M01].[Y0001]\") }}}}'
  push:
    use: http.request
    after: contact
    with: {{ method: POST, url: '{url}', body: '{{{{ $ }}}}' }}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_about_one_kibibyte_and_its_contact_is_right() {
        for number in [0, 1, 99_999, 1_000_000] {
            let text = serde_json::to_vec(&Form::numbered(number)).unwrap();
            assert!((900..1_200).contains(&text.len()), "{} bytes", text.len());
            assert!(Form::numbered(number).into_contact().is_right());
        }
    }
}
