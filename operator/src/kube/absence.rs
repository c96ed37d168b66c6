//! What a 404 of the API server means. If the kind is served, the answer is a Status that names the missing object. If
//! the kind is not served, the answer is the plain text "404 page not found", which names nothing.

use kube::core::Status;

/// Whether an object does not exist. True as well if its kind is not served.
pub fn is_absent(status: &Status) -> bool {
    status.code == 404
}

/// Whether the kind of the object is not served.
pub fn is_not_served(status: &Status) -> bool {
    is_absent(status) && status.details.as_ref().is_none_or(|details| details.name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_absent_object_is_distinguished_from_a_kind_that_is_not_served() {
        // Answers of kube-apiserver 1.36: for a Secret, for a kind of an unknown group, and a refusal.
        let object = json!({"status": "Failure", "message": "secrets \"x\" not found", "reason": "NotFound",
            "details": {"name": "x", "kind": "secrets"}, "code": 404});
        let object: Status = serde_json::from_value(object).unwrap();
        let kind = Status::failure("404 page not found", "Failed to parse error data").with_code(404);
        let refused = Status::failure("no", "Forbidden").with_code(403);
        let told = |status: &Status| (is_absent(status), is_not_served(status));
        assert_eq!((told(&object), told(&kind), told(&refused)), ((true, false), (true, true), (false, false)));
    }
}
