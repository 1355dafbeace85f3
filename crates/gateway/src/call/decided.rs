//! What the gate itself tells clients that listen: that what they may see has changed, which their server does not know of.

use bartizan_mcp::{
    Message, Splice, code, era,
    json::{Kind as Json, Value},
    message,
};

use super::Call;
use crate::news::List;

impl Call {
    /// That something was decided about `list`, for a subscription that asked to hear of it.
    pub fn decided(&self, list: List) -> Option<String> {
        self.wants(list).then(|| list.told(Some(&self.client_id)))
    }

    /// The acknowledgement of a subscription that its server cannot keep, if it is one that the gate can keep alone: `answer` says that
    /// the server knows no subscriptions (26/sub).
    pub fn listens_alone(&self, answer: &Message) -> Option<String> {
        let is_unknown = answer.error_code() == Some(i64::from(code::METHOD_NOT_FOUND));
        let wanted: Vec<_> = List::ALL.into_iter().filter(|list| self.wants(*list)).collect();
        if !is_unknown || wanted.is_empty() {
            return None;
        }
        let kept: Vec<_> = wanted.iter().map(|list| format!("\"{}\":true", list.wish())).collect();
        let params = format!(
            r#"{{"_meta":{{"{}":{}}},"notifications":{{{}}}}}"#,
            era::META_SUBSCRIPTION,
            self.client_id,
            kept.join(",")
        );
        Some(message::notification("notifications/subscriptions/acknowledged", Some(&params)))
    }

    /// Adds to an acknowledgement what the gate tells of, whether or not its server does.
    pub(super) fn acknowledge<'a>(&self, message: &'a Message, splice: &mut Splice<'a>) {
        let Some(kept) = message.field("notifications").filter(|kept| kept.kind() == Json::Object) else {
            return;
        };
        for list in List::ALL.into_iter().filter(|list| self.wants(*list)) {
            let now = kept.get(list.wish());
            if now.and_then(Value::as_bool) != Some(true) {
                splice.put(kept, now, list.wish(), "true");
            }
        }
    }

    fn wants(&self, list: List) -> bool {
        self.interests.as_ref().is_some_and(|interests| interests.wants(list))
    }
}

/// Says in `capabilities` that changes of the lists that they offer are told.
pub fn announce<'a>(capabilities: Option<Value<'a>>, splice: &mut Splice<'a>) {
    for list in List::ALL {
        let offered = capabilities.and_then(|all| all.get(list.capability()));
        let Some(offered) = offered.filter(|offered| offered.kind() == Json::Object) else { continue };
        let now = offered.get("listChanged");
        if now.and_then(Value::as_bool) != Some(true) {
            splice.put(offered, now, "listChanged", "true");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_says_that_its_changes_are_told() {
        let announced = |capabilities: &str| {
            let text = format!(r#"{{"capabilities":{capabilities}}}"#);
            let mut splice = Splice::new(&text);
            announce(Value::of(&text).get("capabilities"), &mut splice);
            splice.finish()
        };
        for (capabilities, expected) in [
            ("{}", "{}"),
            (r#"{"tools":{}}"#, r#"{"tools":{"listChanged":true}}"#),
            (
                r#"{"tools":{"listChanged":false},"prompts":{ "x":1},"logging":{}}"#,
                r#"{"tools":{"listChanged":true},"prompts":{"listChanged":true, "x":1},"logging":{}}"#,
            ),
            (
                r#"{"resources":{"subscribe":true,"listChanged": true}}"#,
                r#"{"resources":{"subscribe":true,"listChanged": true}}"#,
            ),
            (r#"{"tools":null,"prompts":[1]}"#, r#"{"tools":null,"prompts":[1]}"#),
        ] {
            assert_eq!(announced(capabilities), format!(r#"{{"capabilities":{expected}}}"#));
        }
    }
}
