;; One policy with four attacks: which of them runs is the length of the resource id, from 1 to 4.
(module
  (memory (export "memory") 2)
  (global $next (mut i32) (i32.const 65536))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
    (local.set $at (global.get $next))
    (global.set $next (i32.and (i32.add (i32.add (local.get $at) (local.get 3)) (i32.const 7)) (i32.const -8)))
    (local.get $at))
  (func $check (export "capgate:policy/policy@0.1.0#policy-check") (param $input i32) (result i32)
    (block $trap (block $recurse (block $grow (block $loop
      (br_table $loop $grow $recurse $trap (i32.sub (i32.load offset=40 (local.get $input)) (i32.const 1))))
      ;; 1: never return
      (loop $again (br $again)))
      ;; 2: take all memory there is, and go on asking
      (loop $again (drop (memory.grow (i32.const 1))) (br $again)))
      ;; 3: call itself without end
      (return (call $check (local.get $input))))
    ;; 4, and anything else
    (unreachable)))
