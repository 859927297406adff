//! The order that `AnetApiSchema.xsd` prescribes, and the refusal a wrong order earns (E00003).
//! Covers the methods the simulator serves; checks names and order, not values.

use super::ordered::Ordered;

const NAMESPACE: &str = "AnetApi/xml/v1/schema/AnetApiSchema.xsd";

/// A child element and the type of its content; `""` is a value or content that is not checked further.
type Child = (&'static str, &'static str);

fn children(type_name: &str) -> &'static [Child] {
    match type_name {
        "createTransactionRequest" => &[
            ("merchantAuthentication", "merchantAuthentication"),
            ("clientId", ""),
            ("refId", ""),
            ("transactionRequest", "transactionRequest"),
        ],
        "merchantAuthentication" => &[("name", ""), ("transactionKey", "")],
        "transactionRequest" => TRANSACTION_REQUEST,
        "payment" => &[
            ("creditCard", "creditCard"),
            ("bankAccount", ""),
            ("trackData", ""),
            ("encryptedTrackData", ""),
            ("payPal", ""),
            ("opaqueData", "opaqueData"),
        ],
        "creditCard" => &[
            ("cardNumber", ""),
            ("expirationDate", ""),
            ("cardCode", ""),
            ("isPaymentToken", ""),
            ("cryptogram", ""),
        ],
        "opaqueData" => &[("dataDescriptor", ""), ("dataValue", "")],
        "order" => &[("invoiceNumber", ""), ("description", "")],
        "billTo" => &[
            ("firstName", ""),
            ("lastName", ""),
            ("company", ""),
            ("address", ""),
            ("city", ""),
            ("state", ""),
            ("zip", ""),
            ("country", ""),
            ("phoneNumber", ""),
            ("faxNumber", ""),
            ("email", ""),
        ],
        "transactionSettings" => &[("setting", "setting")],
        "setting" => &[("settingName", ""), ("settingValue", "")],
        _ => query_children(type_name),
    }
}

/// The methods that ask, and what they are made of.
fn query_children(type_name: &str) -> &'static [Child] {
    match type_name {
        "getTransactionDetailsRequest" => &[
            ("merchantAuthentication", "merchantAuthentication"),
            ("clientId", ""),
            ("refId", ""),
            ("transId", ""),
        ],
        "getUnsettledTransactionListRequest" => &[
            ("merchantAuthentication", "merchantAuthentication"),
            ("clientId", ""),
            ("refId", ""),
            ("status", ""),
            ("sorting", "sorting"),
            ("paging", "paging"),
        ],
        "getSettledBatchListRequest" => &[
            ("merchantAuthentication", "merchantAuthentication"),
            ("clientId", ""),
            ("refId", ""),
            ("includeStatistics", ""),
            ("firstSettlementDate", ""),
            ("lastSettlementDate", ""),
        ],
        "getTransactionListRequest" => &[
            ("merchantAuthentication", "merchantAuthentication"),
            ("clientId", ""),
            ("refId", ""),
            ("batchId", ""),
            ("sorting", "sorting"),
            ("paging", "paging"),
        ],
        "sorting" => &[("orderBy", ""), ("orderDescending", "")],
        "paging" => &[("limit", ""), ("offset", "")],
        "updateHeldTransactionRequest" => &[
            ("merchantAuthentication", "merchantAuthentication"),
            ("clientId", ""),
            ("refId", ""),
            ("heldTransactionRequest", "heldTransactionRequest"),
        ],
        "heldTransactionRequest" => &[("action", ""), ("refTransId", "")],
        "authenticateTestRequest" => {
            &[("merchantAuthentication", "merchantAuthentication"), ("clientId", ""), ("refId", "")]
        }
        _ => &[],
    }
}

const TRANSACTION_REQUEST: &[Child] = &[
    ("transactionType", ""),
    ("amount", ""),
    ("currencyCode", ""),
    ("payment", "payment"),
    ("profile", ""),
    ("solution", ""),
    ("callId", ""),
    ("terminalNumber", ""),
    ("authCode", ""),
    ("refTransId", ""),
    ("splitTenderId", ""),
    ("order", "order"),
    ("lineItems", ""),
    ("tax", ""),
    ("duty", ""),
    ("shipping", ""),
    ("taxExempt", ""),
    ("poNumber", ""),
    ("customer", ""),
    ("billTo", "billTo"),
    ("shipTo", ""),
    ("customerIP", ""),
    ("cardholderAuthentication", ""),
    ("retail", ""),
    ("employeeId", ""),
    ("transactionSettings", "transactionSettings"),
    ("userFields", ""),
    ("surcharge", ""),
    ("merchantDescriptor", ""),
    ("subMerchant", ""),
    ("tip", ""),
    ("processingOptions", ""),
    ("subsequentAuthInformation", ""),
    ("otherTax", ""),
    ("shipFrom", ""),
    ("authorizationIndicatorType", ""),
];

/// Checks a method's content; the error is the text of E00003.
pub(super) fn check(element: &str, content: &Ordered) -> Result<(), String> {
    check_type(element, element, content)
}

fn check_type(element: &str, type_name: &str, content: &Ordered) -> Result<(), String> {
    match content {
        Ordered::Scalar(_) => Ok(()),
        Ordered::Array(items) => items.iter().try_for_each(|item| check_type(element, type_name, item)),
        Ordered::Object(members) => {
            let sequence = children(type_name);
            let mut next = 0;
            for (name, value) in members {
                let Some(place) = sequence.iter().skip(next).position(|(child, _)| child == name) else {
                    return Err(refusal(element, name, sequence.get(next..).unwrap_or_default()));
                };
                let (_, child_type) = sequence[next + place];
                if !child_type.is_empty() {
                    check_type(name, child_type, value)?;
                }
                next += place + 1;
            }
            Ok(())
        }
    }
}

fn refusal(element: &str, child: &str, expected: &[Child]) -> String {
    let expected: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    format!(
        "The element '{element}' in namespace '{NAMESPACE}' has invalid child element '{child}' in namespace \
         '{NAMESPACE}'. List of possible elements expected: '{}' in namespace '{NAMESPACE}'.",
        expected.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::{Ordered, check};

    #[test]
    fn order_is_checked_at_every_depth() {
        let good = r#"{"merchantAuthentication":{"name":"n","transactionKey":"k"},"transactionRequest":{"transactionType":"t","amount":"5","billTo":{"zip":"1"},"transactionSettings":{"setting":[{"settingName":"a","settingValue":"b"}]}}}"#;
        let verdict =
            |json: &str| check("createTransactionRequest", &serde_json::from_str::<Ordered>(json).unwrap());
        assert_eq!(verdict(good), Ok(()));
        for (from, to) in [
            (r#""name":"n","transactionKey":"k""#, r#""transactionKey":"k","name":"n""#),
            (r#""transactionType":"t","amount":"5""#, r#""amount":"5","transactionType":"t""#),
            (r#""settingName":"a","settingValue":"b""#, r#""settingValue":"b","settingName":"a""#),
            (r#""zip":"1""#, r#""zipcode":"1""#),
        ] {
            let error = verdict(&good.replace(from, to)).unwrap_err();
            assert!(error.contains("has invalid child element"), "{error}");
        }
    }
}
