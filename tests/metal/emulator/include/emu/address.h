// Pointers that know their address space, for the checking pass alone: it is compiled and thrown away.
// A pointer to mutable converts to one to const, in template deduction too, because it derives from it.
#pragma once

#include <type_traits>

namespace emu {

struct device_space {};
struct constant_space {};
struct threadgroup_space {};

template <class T, class Space, bool Const>
struct Pointer;
// The pointer that the source spells as `const? space T*`.
template <class T, class Space>
using Ptr = Pointer<std::remove_const_t<T>, Space, std::is_const_v<T>>;

template <class P, class E, class Space, bool Const>
struct PointerOps {
  P operator+(long n) const { return P(static_cast<const P&>(*this).at() + n); }
  friend P operator+(long n, const P& p) { return P(p.at() + n); }
  P operator-(long n) const { return P(static_cast<const P&>(*this).at() - n); }
  P& operator+=(long n) { return self() = P(self().at() + n); }
  P& operator-=(long n) { return self() = P(self().at() - n); }
  P& operator++() { return *this += 1; }
  P& operator--() { return *this -= 1; }
  P operator++(int) {
    P before = self();
    *this += 1;
    return before;
  }
  P operator--(int) {
    P before = self();
    *this -= 1;
    return before;
  }

 private:
  P& self() { return static_cast<P&>(*this); }
};

template <class T, class Space>
struct Pointer<T, Space, true> : PointerOps<Pointer<T, Space, true>, const T, Space, true> {
  using Ops = PointerOps<Pointer, const T, Space, true>;
  using Ops::operator+;
  using Ops::operator-;
  const volatile void* raw;

  Pointer() = default;
  Pointer(const T* p) : raw(p) {}
  Pointer(decltype(nullptr)) : raw(nullptr) {}
  template <class U, bool C>
  explicit Pointer(const Pointer<U, Space, C>& p) : raw(p.raw) {}
  explicit Pointer(unsigned long p) : raw(reinterpret_cast<const void*>(p)) {}
  const T* at() const { return reinterpret_cast<const T*>(const_cast<const void*>(raw)); }
  template <class Q = T>
  const Q& operator*() const { return *at(); }
  template <class Q = T>
  const Q* operator->() const { return at(); }
  template <class Q = T>
  const Q& operator[](long n) const { return at()[n]; }
  explicit operator bool() const { return raw; }
  explicit operator unsigned long() const { return reinterpret_cast<unsigned long>(raw); }
  long operator-(const Pointer& o) const { return at() - o.at(); }
  bool operator==(const Pointer& o) const { return raw == o.raw; }
  bool operator<(const Pointer& o) const { return at() < o.at(); }
  bool operator<=(const Pointer& o) const { return at() <= o.at(); }
  bool operator>(const Pointer& o) const { return at() > o.at(); }
  bool operator>=(const Pointer& o) const { return at() >= o.at(); }
};

template <class T, class Space>
struct Pointer<T, Space, false> : Pointer<T, Space, true>, PointerOps<Pointer<T, Space, false>, T, Space, false> {
  using Base = Pointer<T, Space, true>;
  using Ops = PointerOps<Pointer, T, Space, false>;
  using Ops::operator+;
  using Ops::operator+=;
  using Ops::operator-=;
  using Ops::operator++;
  using Ops::operator--;

  Pointer() = default;
  Pointer(T* p) : Base(p) {}
  Pointer(decltype(nullptr)) : Base(nullptr) {}
  template <class U, bool C>
  explicit Pointer(const Pointer<U, Space, C>& p) : Base(p) {}
  T* at() const { return const_cast<T*>(Base::at()); }
  Pointer operator-(long n) const { return Pointer(at() - n); }
  long operator-(const Base& o) const { return Base::at() - o.at(); }
  template <class Q = T>
  Q& operator*() const { return *at(); }
  template <class Q = T>
  Q* operator->() const { return at(); }
  template <class Q = T>
  Q& operator[](long n) const { return at()[n]; }
};

// reinterpret_cast and static_cast keep a pointer's space; everything else is as the language has it.
template <class T>
constexpr bool is_pointer = false;
template <class T, class Space, bool Const>
constexpr bool is_pointer<Pointer<T, Space, Const>> = true;
template <class To, class From>
To cast(const From& from) {
  if constexpr (is_pointer<To>)
    return To(from);
  else if constexpr (is_pointer<From>)
    return reinterpret_cast<To>(reinterpret_cast<unsigned long>(from.raw));
  else
    return reinterpret_cast<To>(from);
}

}  // namespace emu
