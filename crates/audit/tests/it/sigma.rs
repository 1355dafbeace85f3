//! As much of Sigma as the rules in docs/detections need: maps, lists, the modifiers `contains`, `startswith`, `endswith` and
//! `gte`, conditions with `and`, `or`, `not` and `1|all of`, and the correlations `event_count` and `value_count`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// A rule that looks at one event.
pub struct Rule {
    name: String,
    selections: BTreeMap<String, Value>,
    condition: Vec<String>,
}

/// A file: a rule, and perhaps a correlation over it.
pub struct Detection {
    /// Its level, and that of its events.
    pub level: String,
    rules: Vec<Rule>,
    correlation: Option<Correlation>,
}

struct Correlation {
    rules: Vec<String>,
    by: Vec<String>,
    span: u64,
    at_least: u64,
    /// For `value_count`: of which field different values are counted.
    field: Option<String>,
}

impl Detection {
    /// Reads the documents of a file.
    pub fn read(text: &str) -> Self {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text).expect("it is YAML");
        let mut found = Self { level: String::new(), rules: Vec::new(), correlation: None };
        for document in &documents {
            for field in ["title", "id", "status", "description", "author", "date", "level"] {
                assert!(document[field].as_str().is_some_and(|text| !text.is_empty()), "no {field}");
            }
            found.level = document["level"].as_str().unwrap().to_owned();
            if document["correlation"].is_object() {
                found.correlation = Some(Correlation::read(&document["correlation"]));
            } else {
                assert_eq!(document["logsource"]["product"], "bartizan");
                found.rules.push(Rule::read(document));
            }
        }
        found
    }

    /// Whether anything in these events, which are in the order of their times, is found.
    pub fn finds(&self, events: &[Value]) -> bool {
        match &self.correlation {
            None => events.iter().any(|event| self.rules.iter().any(|rule| rule.fits(event))),
            Some(correlation) => correlation.finds(&self.rules, events),
        }
    }

    /// Every field it speaks of.
    pub fn fields(&self) -> BTreeSet<String> {
        let of_rule = |rule: &Rule| {
            let maps = rule.selections.values().flat_map(|selection| match selection {
                Value::Array(maps) => maps.clone(),
                one => vec![one.clone()],
            });
            maps.flat_map(|map| map.as_object().unwrap().keys().cloned().collect::<Vec<_>>())
                .collect::<Vec<_>>()
        };
        let selected = self.rules.iter().flat_map(of_rule);
        let correlated = self.correlation.iter().flat_map(|c| c.by.iter().chain(&c.field).cloned());
        selected.chain(correlated).map(|field| field.split('|').next().unwrap().to_owned()).collect()
    }
}

impl Rule {
    fn read(document: &Value) -> Self {
        let detection = document["detection"].as_object().expect("it detects something");
        let condition = detection["condition"].as_str().expect("it has a condition");
        let words = condition.replace('(', " ( ").replace(')', " ) ");
        Self {
            name: document["name"].as_str().unwrap_or_default().to_owned(),
            selections: detection
                .iter()
                .filter(|(n, _)| *n != "condition")
                .map(|(n, s)| (n.clone(), s.clone()))
                .collect(),
            condition: words.split_whitespace().map(str::to_owned).collect(),
        }
    }

    fn fits(&self, event: &Value) -> bool {
        let mut words = self.condition.iter().map(String::as_str).peekable();
        let answer = self.any(&mut words, event);
        assert!(words.next().is_none(), "`{:?}` is no condition", self.condition);
        answer
    }

    fn any<'w>(&self, words: &mut std::iter::Peekable<impl Iterator<Item = &'w str>>, event: &Value) -> bool {
        let mut answer = self.all(words, event);
        while words.next_if_eq(&"or").is_some() {
            answer |= self.all(words, event);
        }
        answer
    }

    fn all<'w>(&self, words: &mut std::iter::Peekable<impl Iterator<Item = &'w str>>, event: &Value) -> bool {
        let mut answer = self.one(words, event);
        while words.next_if_eq(&"and").is_some() {
            answer &= self.one(words, event);
        }
        answer
    }

    fn one<'w>(&self, words: &mut std::iter::Peekable<impl Iterator<Item = &'w str>>, event: &Value) -> bool {
        match words.next().expect("the condition goes on") {
            "not" => !self.one(words, event),
            "(" => {
                let answer = self.any(words, event);
                assert_eq!(words.next(), Some(")"));
                answer
            }
            quantity @ ("1" | "all") => {
                assert_eq!(words.next(), Some("of"));
                let which = words.next().expect("of what");
                let prefix = which.strip_suffix('*').unwrap_or(if which == "them" { "" } else { which });
                let mut named =
                    self.selections.iter().filter(|(name, _)| name.starts_with(prefix)).peekable();
                assert!(named.peek().is_some(), "{which} names nothing");
                if quantity == "1" {
                    named.any(|(_, selection)| selected(selection, event))
                } else {
                    named.all(|(_, selection)| selected(selection, event))
                }
            }
            name => {
                selected(self.selections.get(name).unwrap_or_else(|| panic!("no selection {name}")), event)
            }
        }
    }
}

/// All fields of a map, or any map of a list.
fn selected(selection: &Value, event: &Value) -> bool {
    match selection {
        Value::Array(maps) => maps.iter().any(|map| selected(map, event)),
        Value::Object(fields) => fields.iter().all(|(field, wanted)| field_fits(field, wanted, event)),
        other => panic!("{other} selects nothing"),
    }
}

fn field_fits(field: &str, wanted: &Value, event: &Value) -> bool {
    let (path, modifier) = field.split_once('|').unwrap_or((field, ""));
    let mut found = Vec::new();
    values(event, path, &mut found);
    let wanted = match wanted {
        Value::Array(any) => any.clone(),
        one => vec![one.clone()],
    };
    found.iter().any(|value| wanted.iter().any(|wanted| value_fits(value, wanted, modifier)))
}

fn value_fits(value: &Value, wanted: &Value, modifier: &str) -> bool {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned).to_lowercase();
    match modifier {
        "" => text(value) == text(wanted),
        "contains" => text(value).contains(&text(wanted)),
        "startswith" => text(value).starts_with(&text(wanted)),
        "endswith" => text(value).ends_with(&text(wanted)),
        "gte" => value.as_f64() >= wanted.as_f64(),
        other => panic!("the modifier {other} is not known here"),
    }
}

/// What stands at a path of names; a list stands for each of its members.
fn values<'v>(at: &'v Value, path: &str, found: &mut Vec<&'v Value>) {
    match at {
        Value::Array(members) => members.iter().for_each(|member| values(member, path, found)),
        _ if path.is_empty() => found.push(at),
        _ => {
            let (name, rest) = path.split_once('.').unwrap_or((path, ""));
            if let Some(next) = at.get(name) {
                values(next, rest, found);
            }
        }
    }
}

impl Correlation {
    fn read(written: &Value) -> Self {
        let texts = |value: &Value| -> Vec<String> {
            value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
        };
        let span = written["timespan"].as_str().unwrap();
        let (number, unit) = span.split_at(span.len() - 1);
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            other => panic!("{other} is no unit of time"),
        };
        let field = written["condition"]["field"].as_str().map(str::to_owned);
        let expected = if field.is_some() { "value_count" } else { "event_count" };
        assert_eq!(written["type"], expected);
        Self {
            rules: texts(&written["rules"]),
            by: texts(&written["group-by"]),
            span: number.parse::<u64>().unwrap() * seconds,
            at_least: written["condition"]["gte"].as_u64().unwrap(),
            field,
        }
    }

    fn finds(&self, rules: &[Rule], events: &[Value]) -> bool {
        for name in &self.rules {
            assert!(rules.iter().any(|rule| rule.name == *name), "no rule is named {name}");
        }
        let named = |rule: &&Rule| self.rules.contains(&rule.name);
        let text = |event: &Value, field: &str| {
            let mut found = Vec::new();
            values(event, field, &mut found);
            found.first().map(|value| value.to_string())
        };
        let mut groups: BTreeMap<Vec<String>, Vec<(u64, Option<String>)>> = BTreeMap::new();
        for event in events.iter().filter(|event| rules.iter().filter(named).any(|rule| rule.fits(event))) {
            let Some(key) = self.by.iter().map(|field| text(event, field)).collect::<Option<Vec<_>>>() else {
                continue;
            };
            let time = bartizan_audit::event::rfc3339::parse(event["time"].as_str().unwrap()).unwrap();
            let value = self.field.as_ref().and_then(|field| text(event, field));
            groups.entry(key).or_default().push((time.as_unix(), value));
        }
        groups.values().any(|group| {
            group.iter().enumerate().any(|(end, (now, _))| {
                let within = group[..=end].iter().filter(|(time, _)| now - time < self.span);
                let count = match self.field {
                    Some(_) => within.filter_map(|(_, value)| value.as_ref()).collect::<BTreeSet<_>>().len(),
                    None => within.count(),
                };
                count as u64 >= self.at_least
            })
        })
    }
}
