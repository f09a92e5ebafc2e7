;; A session that installs a contract, and the contract itself: one module, as Casper stores it.
;; {name} becomes the address and the length of a constant of contract.rs, {name.at} its address alone.
(module
  (import "env" "casper_new_uref" (func $new_uref (param i32 i32 i32)))
  (import "env" "casper_put_key" (func $put_key (param i32 i32 i32 i32)))
  (import "env" "casper_dictionary_put" (func $dictionary_put (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "casper_create_contract_package_at_hash" (func $create_package (param i32 i32 i32)))
  (import "env" "casper_add_contract_version_with_message_topics"
    (func $add_version (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "casper_emit_message" (func $emit_message (param i32 i32 i32 i32) (result i32)))
  (import "env" "casper_revert" (func $revert (param i32)))
  (memory 1)
  {constants}

  (func $expect_success (param $code i32)
    (if (local.get $code) (then (call $revert (local.get $code)))))

  ;; Makes a dictionary with one item, installs the contract, and names both in the account.
  (func (export "call")
    (call $new_uref {dictionary.at} {unit})
    (call $put_key {dictionary_name} {dictionary_key})
    (call $expect_success (call $dictionary_put {dictionary} {item_name} {item_value}))
    (call $create_package {package.at} {access.at} (i32.const 0))
    (call $expect_success
      (call $add_version {package} {version.at} {entry_points} {named_keys} {topics} {contract}))
    (call $put_key {contract_name} {contract_key}))

  ;; The contract's entry point.
  (func (export "greet")
    (call $expect_success (call $emit_message {topic} {message}))))
