// Included in front of everything in builds with ThreadSanitizer. protobuf's map_field.h gives every map
// field two more members there, and messages of the library, Struct among them, are laid out by a libprotobuf
// that was built without: whoever fills one from here would write beside what the library reads. The header
// is read once, here, as the library was built; protobuf has no other use of the macro.
#pragma once

#if defined(__SANITIZE_THREAD__)
#pragma push_macro("__SANITIZE_THREAD__")
#include <memory>  // what the standard library makes of the macro stays
#undef __SANITIZE_THREAD__
#include <google/protobuf/map_field.h>
#pragma pop_macro("__SANITIZE_THREAD__")
#endif
