extern "C" void __wasm_call_ctors();
using u32 = unsigned;
struct DenyList { const char *names[4]; u32 count; void add(const char *n); DenyList(); };
u32 volatile one = 1;
void DenyList::add(const char *n) { names[count++] = n; }
DenyList::DenyList() { count = 0; for (u32 i = 0; i < one; i++) add("db.drop"); }
static DenyList denied;
static const char reason[] = "on the list";
alignas(8) static unsigned char heap[32768];
static u32 top;
static u32 result[3];
extern "C" {
__attribute__((export_name("_initialize"))) void init() { __wasm_call_ctors(); }
__attribute__((export_name("cabi_realloc"))) void *ralloc(void *, u32, u32 align, u32 size) {
  top = (top + align - 1) & ~(align - 1);
  if (top + size > sizeof heap) __builtin_trap();
  void *at = heap + top; top += size; return at;
}
__attribute__((export_name("capgate:policy/policy@0.1.0#policy-check"))) u32 check(const u32 *input) {
  const char *action = (const char *)input[3]; u32 length = input[4];
  for (u32 i = 0; i < denied.count; i++) {
    const char *n = denied.names[i]; u32 k = 0;
    while (k < length && n[k] && n[k] == action[k]) k++;
    if (k == length && !n[k]) { result[0] = 1; result[1] = (u32)reason; result[2] = sizeof reason - 1; return (u32)result; }
  }
  result[0] = 0; return (u32)result;
}
}
