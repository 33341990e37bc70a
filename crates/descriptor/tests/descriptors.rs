//! Descriptors as real components have them, what becomes of them, and garbage.

use flowline_descriptor::{Descriptor, DescriptorError, suggested_name};
use flowline_model::{OperationKind, OperationSpec};
use flowline_sdk::{Image, Run};
use serde_json::{Value, json};

const PETSTORE: &str = include_str!("components/petstore.json");

const REST: &str = include_str!("components/rest.json");

fn petstore() -> Descriptor {
    Descriptor::read("petstore", PETSTORE).unwrap()
}

fn spec(descriptor: &Descriptor, name: &str) -> OperationSpec {
    descriptor.specs().into_iter().find(|spec| spec.name == name).unwrap()
}

fn problems(spec: &OperationSpec, with: &Value) -> Vec<String> {
    let validator = jsonschema::validator_for(&spec.config).unwrap();
    validator.iter_errors(with).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// What `flowline check` says of a step that uses an operation.
fn check(specs: Vec<OperationSpec>, with: &str) -> Vec<String> {
    let mut operations: std::collections::BTreeMap<_, _> =
        specs.into_iter().map(|spec| (spec.name.clone(), std::sync::Arc::new(spec))).collect();
    let hook = OperationSpec::webhook("webhook.receive", "Receive", "Receives.");
    operations.insert(hook.name.clone(), hook.into());
    let text = format!(
        "name: pets\nsteps:\n  hook:\n    use: webhook.receive\n  create:\n    use: petstore.create\n    after: hook\n    with: {with}\n"
    );
    match flowline_model::check(&text, &operations) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.into_iter().map(|problem| problem.message).collect(),
    }
}

#[test]
fn a_component_becomes_operations() {
    let descriptor = petstore();
    assert_eq!((descriptor.title(), descriptor.summary()), ("Petstore Component", "Talks to the petstore."));
    assert_eq!((descriptor.version(), descriptor.required_variables()), ("2.1.0".to_owned(), vec!["PETSTORE_URL"]));
    let kinds: Vec<(String, OperationKind)> =
        descriptor.specs().into_iter().map(|spec| (spec.name, spec.kind)).collect();
    let expected = [
        ("petstore.poll", OperationKind::Polling),
        ("petstore.hook", OperationKind::Action),
        ("petstore.create", OperationKind::Action),
        ("petstore.search", OperationKind::Action),
    ];
    assert_eq!(kinds, expected.map(|(name, kind)| (name.to_owned(), kind)));
    assert!(spec(&descriptor, "petstore.hook").description.contains("stands after `webhook.receive`"));
    assert!(spec(&descriptor, "petstore.search").description.contains("advise against"));
    let create = spec(&descriptor, "petstore.create");
    assert_eq!((create.summary.as_str(), create.writes_outside), ("Creates a pet in the store", true));
    let keys: Vec<(String, bool)> =
        descriptor.credential_fields().into_iter().map(|field| (field.key, field.hidden)).collect();
    assert_eq!(keys, [("user".to_owned(), false), ("secret".to_owned(), true)]);

    let image =
        Image { name: "i:1".into(), function: String::new(), command: vec!["node".into()], environment: vec![] };
    for operation in descriptor.operations(&image) {
        let Run::Image(image) = operation.run else { panic!("{}", operation.spec.name) };
        assert_eq!(format!("petstore.{}", image.function), operation.spec.name);
    }
}

#[test]
fn what_was_written_for_forms_and_browsers_reads_well() {
    let rest = Descriptor::read("rest", REST).unwrap();
    assert_eq!((rest.summary(), rest.version().as_str()), ("Calls anything that speaks HTTP.", "2.2.2-dev.2"));
    let call = spec(&rest, "rest.call");
    assert_eq!(
        (call.kind, call.summary.as_str()),
        (OperationKind::Polling, "Sends a GET and parses the answer. Then it emits.")
    );
    assert!(call.description.contains("<https://docs.example/rest>") && !call.description.contains("#call"));
    let fields = call.config.pointer("/properties/fields").unwrap();
    let expected = "Works only if policy is retry Values < 11, so 1 < 2. For example `10`.";
    assert_eq!(fields["properties"]["maxRetries"]["description"], expected);
    assert_eq!(fields["properties"]["reader"], json!({ "title": "REST API" }), "any shape");
    assert_eq!(fields["required"], json!(["code", "reader"]));
    assert_eq!(fields["properties"]["code"], json!({ "type": "string", "title": "Code" }), "a default is the form's");
    assert!(spec(&rest, "rest.callOld").description.contains("advise against"));
    let right =
        json!({ "fields": { "code": "x", "mode": "groupSize&timeout" }, "credential": { "auth": { "basic": {} } } });
    assert_eq!(problems(&spec(&rest, "rest.regroup"), &right), Vec::<String>::new());
    let anything = json!({ "fields": { "code": "x" }, "body": [1, "two"] });
    assert_eq!(problems(&spec(&rest, "rest.anything"), &anything), Vec::<String>::new());
}

#[test]
fn fields_become_a_schema() {
    let poll = spec(&petstore(), "petstore.poll");
    assert!(poll.config.pointer("/properties/body").is_none(), "a poll receives nothing");
    let fields = poll.config.pointer("/properties/fields").unwrap();
    let names: Vec<&String> = fields["properties"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["region", "status", "size"], "those with a higher order first");
    let expected = json!({ "type": "string", "enum": ["available", "sold"], "title": "Status",
        "description": "Which pets. `available`: Available, `sold`: Sold out." });
    assert_eq!(fields["properties"]["status"], expected);
    assert_eq!(fields["properties"]["size"]["description"], "For example `100`.");
    assert_eq!((&fields["required"], &poll.config["required"]), (&json!(["status"]), &json!(["fields", "credential"])));

    let create = spec(&petstore(), "petstore.create");
    let fields = create.config.pointer("/properties/fields/properties").unwrap();
    assert!(fields["kind"]["description"].as_str().unwrap().contains("`flowline components model` asks it"));
    assert!(fields["kind"]["description"].as_str().unwrap().contains("Depends on `status`"));
    assert_eq!(fields["tags"]["items"], json!({ "type": "string", "enum": ["a", "b"] }));
    assert_eq!((&fields["strict"]["type"], &fields["expr"]["type"]), (&json!("boolean"), &json!("string")));
    assert_eq!(fields["auth"], json!({ "title": "Auth", "description": "Any shape!" }));
    let credential = create.config.pointer("/properties/credential").unwrap();
    assert_eq!(
        credential["properties"]["secret"],
        json!({ "type": "string", "format": "password", "title": "Secret" })
    );
    assert!(credential["description"].as_str().unwrap().contains("oauth2"));
}

#[test]
fn the_dialect_becomes_json_schema() {
    let create = spec(&petstore(), "petstore.create");
    let body = create.config.pointer("/properties/body").unwrap();
    assert_eq!((&body["required"], &body["properties"]["status"]["enum"]), (&json!(["name"]), &json!(["a", "b"])));
    assert_eq!(body["properties"]["name"]["$ref"], "#/properties/body/definitions/name");
    assert_eq!(body["properties"]["when"], json!({ "type": "string" }));
    let with = |body: Value| json!({ "fields": { "kind": "dog" }, "credential": { "user": "u", "secret": "s", "oauth": {} }, "body": body });
    assert_eq!(problems(&create, &with(json!({ "name": "Rex", "photos": [{ "url": "x" }] }))), Vec::<String>::new());
    let wrong =
        problems(&create, &with(json!({ "name": "a name too long", "owner": {}, "photos": [{}], "status": "c" })));
    assert_eq!(wrong.len(), 4, "{wrong:?}");
    let search = spec(&petstore(), "petstore.search");
    assert!(search.config.pointer("/properties/body/properties").is_none(), "what is dynamic is not known here");
}

#[test]
fn a_flow_is_checked_against_it() {
    let right = "{ fields: { kind: dog }, credential: { user: u, secret: \"{{ $secret.pet }}\" }, body: \"{{ $ }}\" }";
    assert_eq!(check(petstore().specs(), right), Vec::<String>::new());
    let wrong = "{ fields: { kind: dog, region: eux, strikt: true }, credential: { user: u }, body: { name: 7 } }";
    let found = check(petstore().specs(), wrong);
    for part in ["`fields.region` cannot be `eux`", "`strikt`", "`secret`", "`body.name` is a text"] {
        assert!(found.iter().any(|problem| problem.contains(part)), "{part}: {found:?}");
    }
}

#[test]
fn examples_fit_their_operations() {
    let rest = Descriptor::read("rest", REST).unwrap();
    for spec in petstore().specs().into_iter().chain(rest.specs()) {
        let text = format!(
            "name: x\nsteps:\n  hook:\n    use: webhook.receive\n  x:\n    use: {}\n    after: hook\n    with:\n{}\n",
            spec.name,
            spec.examples[0].lines().map(|line| format!("      {line}\n")).collect::<String>()
        );
        let name = spec.name.clone();
        if spec.kind == OperationKind::Polling {
            continue;
        }
        let hook = OperationSpec::webhook("webhook.receive", "Receive", "Receives.");
        let operations = [spec, hook].map(|spec| (spec.name.clone(), std::sync::Arc::new(spec))).into();
        let checked = flowline_model::check(&text, &operations);
        assert!(checked.is_ok(), "{name}: {:?}\n{text}", checked.err());
    }
}

#[test]
fn metadata_in_files_is_taken_in_or_left_out() {
    assert_eq!(petstore().metadata_files(), ["./lib/schemas/pet.out.json", "./lib/schemas/pet.out.json"]);
    let in_file = json!({ "actions": { "a": { "metadata": { "in": "a.json", "out": "gone.json" } } } });
    let descriptor = Descriptor::new("x", in_file).unwrap();
    let content =
        |path: &str| (path == "a.json").then(|| json!({ "properties": { "n": { "type": "int", "required": true } } }));
    let descriptor = descriptor.with_metadata(content);
    assert_eq!(descriptor.metadata_files(), Vec::<String>::new());
    let body = descriptor.specs()[0].config.pointer("/properties/body").cloned().unwrap();
    assert_eq!((&body["required"], &body["properties"]["n"]["type"]), (&json!(["n"]), &json!("integer")));
}

#[test]
fn components_with_secrets_and_none_at_all() {
    let secrets = json!({ "authClientTypes": ["basic", "oauth2"], "actions": { "a": {} } });
    let config = Descriptor::new("x", secrets).unwrap().specs()[0].config.clone();
    assert_eq!(config.pointer("/properties/credential/type"), Some(&json!("object")));
    let none = Descriptor::new("x", json!({ "actions": { "a": {} } })).unwrap().specs();
    assert!(none[0].config.pointer("/properties/credential").is_none());
    assert_eq!(problems(&none[0], &json!({})), Vec::<String>::new());
}

#[test]
fn garbage_is_an_error_or_left_out_and_never_more() {
    let read = |text: &str| Descriptor::read("x", text).unwrap_err();
    assert_eq!(read("{"), DescriptorError::NotJson { line: 1, column: 1 });
    assert_eq!(read("[]"), DescriptorError::NotAMap);
    assert_eq!(read("{}"), DescriptorError::NoOperations);
    assert_eq!(read(r#"{"actions":{"../x":{},"":{},"a":7}}"#), DescriptorError::NoOperations);
    assert_eq!(read(&" ".repeat(5 << 20)), DescriptorError::TooLarge);
    assert!(matches!(Descriptor::read("A b", "{}"), Err(DescriptorError::Name(_))));

    // Every part of a good descriptor in turn becomes something else.
    let good: Value = serde_json::from_str(PETSTORE).unwrap();
    let mut paths = Vec::new();
    gather("", &good, &mut paths);
    for path in &paths {
        for garbage in
            [json!(null), json!(-7.5), json!("x"), json!([[]]), json!({ "": {} }), json!({ "$ref": "#" }), json!(true)]
        {
            let mut broken = good.clone();
            *broken.pointer_mut(path).unwrap() = garbage;
            let Ok(descriptor) = Descriptor::new("x", broken) else { continue };
            for spec in descriptor.specs() {
                assert!(jsonschema::validator_for(&spec.config).is_ok(), "{path}: {}", spec.config);
            }
        }
    }
    assert!(paths.len() > 100);
}

fn gather(path: &str, value: &Value, paths: &mut Vec<String>) {
    paths.push(path.to_owned());
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(entries) => {
            entries.iter().map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value)).collect()
        }
        Value::Array(items) => items.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    inner.into_iter().for_each(|(key, value)| gather(&format!("{path}/{key}"), value, paths));
}

#[test]
fn names_are_found() {
    for (title, name) in [
        ("Petstore Component", Some("petstore")),
        ("elasticio-rest-api-component", Some("rest-api")),
        ("Größe & Co", Some("gr-e-co")),
        ("42 things", Some("things")),
        ("!!!", None),
    ] {
        assert_eq!(suggested_name(title).as_deref(), name, "{title}");
    }
}
