//! Errors as the API's clients expect them.

use axum::Json;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use market::Reason;
use serde_json::{Value, json};

/// An error of the API: always JSON, never 422.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) kind: &'static str,
    pub(crate) code: Option<&'static str>,
    pub(crate) param: Option<String>,
    pub(crate) message: String,
    /// Milliseconds after which it is worth trying again.
    pub(crate) again_ms: Option<u64>,
}

const INVALID: &str = "invalid_request_error";

impl ApiError {
    fn of(status: StatusCode, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, kind, code, param: None, message: message.into(), again_ms: None }
    }

    fn at(self, param: &str) -> Self {
        Self { param: Some(param.to_owned()), ..self }
    }

    pub(crate) fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::of(StatusCode::BAD_REQUEST, INVALID, Some("invalid_value"), message).at(param)
    }

    pub(crate) fn missing(param: &str) -> Self {
        let message = format!("Missing required parameter: '{param}'.");
        Self::of(StatusCode::BAD_REQUEST, INVALID, Some("missing_required_parameter"), message).at(param)
    }

    pub(crate) fn unsupported(param: &str, why: &str) -> Self {
        let message = format!("Unsupported parameter: '{param}': {why}.");
        Self::of(StatusCode::BAD_REQUEST, INVALID, Some("unsupported_parameter"), message).at(param)
    }

    pub(crate) fn body(message: impl Into<String>) -> Self {
        Self::of(StatusCode::BAD_REQUEST, INVALID, None, message)
    }

    pub(crate) fn not_found(path: &str) -> Self {
        Self::of(StatusCode::NOT_FOUND, INVALID, Some("unknown_url"), format!("There is nothing at {path}."))
    }

    pub(crate) fn method(method: &str, path: &str) -> Self {
        let message = format!("{path} does not take {method}.");
        Self::of(StatusCode::METHOD_NOT_ALLOWED, INVALID, Some("method_not_allowed"), message)
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("The body is longer than {limit} bytes.");
        Self::of(StatusCode::PAYLOAD_TOO_LARGE, INVALID, Some("request_too_large"), message)
    }

    pub(crate) fn media_type() -> Self {
        let message = "The body has to be JSON: content-type application/json.";
        Self::of(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, Some("unsupported_media_type"), message)
    }

    pub(crate) fn model(name: &str) -> Self {
        let message = format!("The model '{name}' does not exist or is not served to you.");
        Self::of(StatusCode::NOT_FOUND, INVALID, Some("model_not_found"), message).at("model")
    }

    pub(crate) fn key(message: &str) -> Self {
        Self::of(StatusCode::UNAUTHORIZED, "authentication_error", Some("invalid_api_key"), message)
    }

    pub(crate) fn forbidden(message: &str) -> Self {
        Self::of(StatusCode::FORBIDDEN, "permission_error", Some("owner_only"), message)
    }

    pub(crate) fn conflict(message: &str) -> Self {
        Self::of(StatusCode::CONFLICT, INVALID, Some("not_now"), message)
    }

    pub(crate) fn quota(message: &str) -> Self {
        Self::of(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", Some("insufficient_quota"), message)
    }

    pub(crate) fn rate(message: impl Into<String>, again_ms: u64) -> Self {
        let kind = "rate_limit_error";
        let error = Self::of(StatusCode::TOO_MANY_REQUESTS, kind, Some("rate_limit_exceeded"), message);
        Self { again_ms: Some(again_ms), ..error }
    }

    pub(crate) fn value(&self) -> Value {
        json!({ "error": { "message": self.message, "type": self.kind, "param": self.param, "code": self.code } })
    }
}

impl From<Reason> for ApiError {
    fn from(reason: Reason) -> Self {
        let message = reason.to_string();
        match reason {
            Reason::Model(name) => Self::model(&name),
            Reason::Busy(ms) => Self::rate(message, ms),
            Reason::TooLong { .. } => {
                Self::of(StatusCode::BAD_REQUEST, INVALID, Some("context_length_exceeded"), message).at("messages")
            }
            Reason::Unsupported { what, why } => Self::unsupported(&what, &why),
            Reason::Invalid { what, why } => Self::invalid(&what, format!("Invalid '{what}': {why}.")),
            Reason::Unpaid(_) => {
                Self::of(StatusCode::PAYMENT_REQUIRED, "insufficient_quota", Some("insufficient_quota"), message)
            }
            _ => Self::of(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("no_provider_available"), message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.value())).into_response();
        let headers = response.headers_mut();
        if let Some(ms) = self.again_ms {
            headers.insert("retry-after", HeaderValue::from(ms.div_ceil(1000).max(1)));
            headers.insert("retry-after-ms", HeaderValue::from(ms));
        }
        if self.kind == "insufficient_quota" {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response
    }
}
