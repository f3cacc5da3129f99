//! What is written to people: each template in both languages.
//!
//! # Grammar
//! `{name}` stands for a parameter, which has to be there, `{name:10}` for its first ten characters, such as the date of a time. What is in brackets is left out if one of its
//! parameters is not: `[, {amount} in all]`. Parameters that a template does not name are not written.

use std::{collections::BTreeMap, error::Error, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::rules::language::Language;

/// What a text is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// An order is confirmed.
    OrderConfirmed,
    /// An order is cancelled.
    OrderCancelled,
    /// An order is shipped.
    OrderShipped,
    /// An order came back.
    OrderReturned,
    /// A payment was taken.
    PaymentReceived,
    /// A payment was given back.
    PaymentRefunded,
    /// A payment was not taken.
    PaymentFailed,
    /// The merchant has received money.
    MerchantPaid,
    /// The merchant has to give it back.
    MerchantReversed,
    /// There is little left of a product.
    LowStock,
}

impl Template {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::OrderConfirmed,
        Self::OrderCancelled,
        Self::OrderShipped,
        Self::OrderReturned,
        Self::PaymentReceived,
        Self::PaymentRefunded,
        Self::PaymentFailed,
        Self::MerchantPaid,
        Self::MerchantReversed,
        Self::LowStock,
    ];

    /// As in requests and answers: `order_confirmed`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OrderConfirmed => "order_confirmed",
            Self::OrderCancelled => "order_cancelled",
            Self::OrderShipped => "order_shipped",
            Self::OrderReturned => "order_returned",
            Self::PaymentReceived => "payment_received",
            Self::PaymentRefunded => "payment_refunded",
            Self::PaymentFailed => "payment_failed",
            Self::MerchantPaid => "merchant_paid",
            Self::MerchantReversed => "merchant_reversed",
            Self::LowStock => "low_stock",
        }
    }

    /// Whether it is written to the shop's own people, who are no users.
    pub const fn is_for_staff(self) -> bool {
        matches!(self, Self::MerchantPaid | Self::MerchantReversed | Self::LowStock)
    }

    const fn pattern(self, language: Language) -> &'static str {
        let (en, hi) = match self {
            Self::OrderConfirmed => (
                "Your order {order_id} is confirmed[: {amount} rupees][. It arrives by {promised_by:10}].",
                "आपका ऑर्डर {order_id} पक्का हो गया है[: {amount} रुपये][। यह {promised_by:10} तक पहुंचेगा]।",
            ),
            Self::OrderCancelled => (
                "Your order {order_id} is cancelled[: {reason}].",
                "आपका ऑर्डर {order_id} रद्द कर दिया गया है[: {reason}]।",
            ),
            Self::OrderShipped => {
                ("Your order {order_id} is on its way.", "आपका ऑर्डर {order_id} रवाना हो गया है।")
            }
            Self::OrderReturned => {
                ("Your order {order_id} has come back to us.", "आपका ऑर्डर {order_id} हमें वापस मिल गया है।")
            }
            Self::PaymentReceived => (
                "We have received {amount} rupees for the order {order_id}.",
                "ऑर्डर {order_id} के लिए हमें {amount} रुपये मिल गए हैं।",
            ),
            Self::PaymentRefunded => (
                "We have given back {amount} rupees for the order {order_id}.",
                "ऑर्डर {order_id} के {amount} रुपये लौटा दिए गए हैं।",
            ),
            Self::PaymentFailed => (
                "The payment for the order {order_id} has failed[: {reason}]. Nothing was taken.",
                "ऑर्डर {order_id} का भुगतान नहीं हो पाया[: {reason}]। कोई राशि नहीं काटी गई।",
            ),
            Self::MerchantPaid => (
                "{amount} rupees are yours for the order {order_id}.",
                "ऑर्डर {order_id} के {amount} रुपये आपके खाते में आ गए हैं।",
            ),
            Self::MerchantReversed => (
                "{amount} rupees for the order {order_id} are taken back.",
                "ऑर्डर {order_id} के {amount} रुपये वापस ले लिए गए हैं।",
            ),
            Self::LowStock => (
                "There is little left of {product_id}[: {quantity}][ in {warehouse}].",
                "{product_id} का स्टॉक कम है[: {quantity}][, {warehouse} में]।",
            ),
        };
        match language {
            Language::En => en,
            Language::Hi => hi,
        }
    }

    /// The text, or the name of a parameter that is missing.
    pub fn text(self, language: Language, params: &BTreeMap<String, String>) -> Result<String, &'static str> {
        let mut text = String::new();
        let mut rest = self.pattern(language);
        while let Some((before, optional)) = rest.split_once('[') {
            let (optional, after) = optional.split_once(']').expect("a test reads every pattern");
            text += &filled(before, params)?;
            text += &filled(optional, params).unwrap_or_default();
            rest = after;
        }
        Ok(text + &filled(rest, params)?)
    }
}

fn filled(pattern: &'static str, params: &BTreeMap<String, String>) -> Result<String, &'static str> {
    let mut text = String::new();
    let mut rest = pattern;
    while let Some((before, name)) = rest.split_once('{') {
        let (name, after) = name.split_once('}').expect("a test reads every pattern");
        text += before;
        let (name, most) = name.split_once(':').unwrap_or((name, ""));
        let most = most.parse().unwrap_or(usize::MAX);
        text.extend(params.get(name).ok_or(name)?.chars().take(most));
        rest = after;
    }
    Ok(text + rest)
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Template {
    type Err = UnknownTemplate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|it| it.as_str() == text);
        known.ok_or_else(|| UnknownTemplate { text: text.to_owned() })
    }
}

/// A template that there is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownTemplate {
    text: String,
}

impl fmt::Display for UnknownTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Template::ALL.map(Template::as_str).join(", ");
        write!(f, "{:?} is not a template; there are {known}", self.text)
    }
}

impl Error for UnknownTemplate {}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(names: &[&str]) -> BTreeMap<String, String> {
        names.iter().map(|name| ((*name).to_owned(), format!("<{name}>"))).collect()
    }

    const ALL: &[&str] =
        &["order_id", "amount", "promised_by", "reason", "product_id", "quantity", "warehouse"];

    #[test]
    fn r15_6_every_template_says_the_same_in_both_languages() {
        for template in Template::ALL {
            assert_eq!(template.to_string().parse(), Ok(template));
            assert_eq!(serde_json::to_value(template).unwrap(), template.as_str());
            let [en, hi] = [Language::En, Language::Hi].map(|it| template.text(it, &params(ALL)).unwrap());
            for text in [&en, &hi] {
                assert!(!text.contains(['{', '}', '[', ']']), "{text}");
            }
            let named = |text: &str| {
                ALL.iter().filter(|name| text.contains(&format!("<{name}>")[..8.min(name.len() + 2)])).count()
            };
            assert_eq!(named(&en), named(&hi), "{en} {hi}");
            assert!(en.is_ascii() && hi.chars().any(|it| ('\u{900}'..='\u{97F}').contains(&it)), "{en} {hi}");
        }
    }

    #[test]
    fn what_is_missing_is_named_and_what_may_be_is_left_out() {
        let text = |template: Template, names: &[&str]| template.text(Language::En, &params(names));
        assert_eq!(text(Template::OrderConfirmed, &[]), Err("order_id"));
        assert_eq!(text(Template::PaymentReceived, &["order_id"]), Err("amount"));
        assert_eq!(
            text(Template::OrderConfirmed, &["order_id"]).unwrap(),
            "Your order <order_id> is confirmed."
        );
        assert_eq!(
            text(Template::OrderConfirmed, &["order_id", "promised_by", "reason"]).unwrap(),
            "Your order <order_id> is confirmed. It arrives by <promised_."
        );
    }

    #[test]
    fn of_a_time_the_date_is_said() {
        let said = [("order_id", "ORD_1"), ("promised_by", "2026-01-17T12:00:00+05:30")];
        let params = said.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let text = Template::OrderConfirmed.text(Language::En, &params).unwrap();
        assert_eq!(text, "Your order ORD_1 is confirmed. It arrives by 2026-01-17.");
        let text = Template::OrderConfirmed.text(Language::Hi, &params).unwrap();
        assert_eq!(text, "आपका ऑर्डर ORD_1 पक्का हो गया है। यह 2026-01-17 तक पहुंचेगा।");
    }

    #[test]
    fn a_parameter_is_text_and_no_pattern() {
        let params = BTreeMap::from([("order_id".to_owned(), "{amount}[x]".to_owned())]);
        let text = Template::OrderShipped.text(Language::En, &params).unwrap();
        assert_eq!(text, "Your order {amount}[x] is on its way.");
    }
}
