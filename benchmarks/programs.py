"""Small programs, to be run with and without metering."""

from __future__ import annotations

HASH = """(module (memory 1) (func (export "run") (param $n i32) (result i32) (local $h i32) (local $i i32)
  (local.set $h (i32.const 0x811c9dc5))
  (loop $next
    (local.set $h (i32.mul (i32.xor (local.get $h) (i32.load8_u (i32.and (local.get $i) (i32.const 0xffff))))
                           (i32.const 16777619)))
    (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
  (local.get $h)))"""

SORT = """(module (memory 1)
  (func $fill (param $n i32) (local $i i32) (local $x i32)
    (local.set $x (i32.const 12345))
    (loop $next
      (local.set $x (i32.add (i32.mul (local.get $x) (i32.const 1103515245)) (i32.const 12345)))
      (i32.store (i32.shl (local.get $i) (i32.const 2)) (local.get $x))
      (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n)))))
  (func $sift (param $root i32) (param $end i32) (local $child i32) (local $value i32) (local $other i32)
    (local.set $value (i32.load (i32.shl (local.get $root) (i32.const 2))))
    (block $done
      (loop $down
        (local.set $child (i32.add (i32.shl (local.get $root) (i32.const 1)) (i32.const 1)))
        (br_if $done (i32.ge_u (local.get $child) (local.get $end)))
        (local.set $other (i32.load (i32.shl (local.get $child) (i32.const 2))))
        (if (i32.lt_u (i32.add (local.get $child) (i32.const 1)) (local.get $end))
          (then
            (if (i32.gt_s (i32.load offset=4 (i32.shl (local.get $child) (i32.const 2))) (local.get $other))
              (then
                (local.set $child (i32.add (local.get $child) (i32.const 1)))
                (local.set $other (i32.load (i32.shl (local.get $child) (i32.const 2))))))))
        (br_if $done (i32.le_s (local.get $other) (local.get $value)))
        (i32.store (i32.shl (local.get $root) (i32.const 2)) (local.get $other))
        (local.set $root (local.get $child))
        (br $down)))
    (i32.store (i32.shl (local.get $root) (i32.const 2)) (local.get $value)))
  (func (export "run") (param $n i32) (result i32) (local $i i32) (local $last i32)
    (call $fill (local.get $n))
    (local.set $i (i32.shr_u (local.get $n) (i32.const 1)))
    (loop $heap
      (local.set $i (i32.sub (local.get $i) (i32.const 1)))
      (call $sift (local.get $i) (local.get $n))
      (br_if $heap (local.get $i)))
    (local.set $i (i32.sub (local.get $n) (i32.const 1)))
    (loop $take
      (local.set $last (i32.load (i32.shl (local.get $i) (i32.const 2))))
      (i32.store (i32.shl (local.get $i) (i32.const 2)) (i32.load (i32.const 0)))
      (i32.store (i32.const 0) (local.get $last))
      (call $sift (i32.const 0) (local.get $i))
      (br_if $take (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
    (i32.load (i32.const 400))))"""

MATRIX = """(module (memory 2) (func (export "run") (param $n i32) (result i32)
  (local $i i32) (local $j i32) (local $k i32) (local $sum f64)
  (loop $row
    (local.set $j (i32.const 0))
    (loop $column
      (local.set $k (i32.const 0))
      (local.set $sum (f64.const 1))
      (loop $dot
        (local.set $sum
          (f64.add
            (local.get $sum)
            (f64.mul
              (f64.load
                (i32.shl (i32.add (i32.mul (local.get $i) (local.get $n)) (local.get $k)) (i32.const 3)))
              (f64.load offset=32768
                (i32.shl (i32.add (i32.mul (local.get $k) (local.get $n)) (local.get $j)) (i32.const 3))))))
        (br_if $dot (i32.lt_u (local.tee $k (i32.add (local.get $k) (i32.const 1))) (local.get $n))))
      (f64.store offset=65536
        (i32.shl (i32.add (i32.mul (local.get $i) (local.get $n)) (local.get $j)) (i32.const 3))
        (local.get $sum))
      (br_if $column (i32.lt_u (local.tee $j (i32.add (local.get $j) (i32.const 1))) (local.get $n))))
    (br_if $row (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
  (i32.trunc_f64_s (local.get $sum))))"""

SCAN = """(module (memory 1)
  (data (i32.const 0) "{'kind':'allow','list':[1,2,3,4.5,true,false],'name':'some text'}")
  (func (export "run") (param $n i32) (result i32)
    (local $i i32) (local $c i32) (local $depth i32) (local $text i32)
    (loop $next
      (local.set $c (i32.load8_u (i32.and (local.get $i) (i32.const 63))))
      (block $done
        (if (local.get $text)
          (then
            (local.set $text (i32.ne (local.get $c) (i32.const 39)))
            (br $done)))
        (block $close
          (block $open
            (block $quote
              (br_if $quote (i32.eq (local.get $c) (i32.const 39)))
              (br_if $open (i32.or (i32.eq (local.get $c) (i32.const 91)) (i32.eq (local.get $c) (i32.const 123))))
              (br_if $close (i32.or (i32.eq (local.get $c) (i32.const 93)) (i32.eq (local.get $c) (i32.const 125))))
              (br $done))
            (local.set $text (i32.const 1))
            (br $done))
          (local.set $depth (i32.add (local.get $depth) (i32.const 1)))
          (br $done))
        (local.set $depth (i32.sub (local.get $depth) (i32.const 1))))
      (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
    (local.get $depth)))"""

FIBONACCI = """(module (func $f (export "run") (param i32) (result i32)
  (if (result i32) (i32.lt_u (local.get 0) (i32.const 2))
    (then (local.get 0))
    (else
      (i32.add
        (call $f (i32.sub (local.get 0) (i32.const 1)))
        (call $f (i32.sub (local.get 0) (i32.const 2))))))))"""

#: A loop of load, add, store, in a memory that is put in.
UPDATE = """(module (memory) (func (export "run") (param $n i32) (result i32) (local $i i32) (local $at i32)
  (loop $next
    (local.set $at (i32.and (local.get $i) (i32.const 0xfffc)))
    (i32.store (local.get $at) (i32.add (i32.load (local.get $at)) (local.get $i)))
    (local.set $i (i32.add (local.get $i) (i32.const 4)))
    (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
  (i32.load (i32.const 0))))"""

#: Name -> (text, argument, whether it has to keep within the slowdown that is to be reached). The last one is the worst
#: there is: it does nothing but call.
PROGRAMS = {
    "hash of bytes": (HASH, 100_000, True),
    "heap sort": (SORT, 4_000, True),
    "matrix product": (MATRIX, 48, True),
    "scan of text": (SCAN, 20_000, True),
    "fibonacci": (FIBONACCI, 20, False),
}
